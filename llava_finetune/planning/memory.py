"""Bytes per GPU of a training, by part, from shapes alone: the arithmetic behind `llava-finetune plan`.

What is counted, and where it comes from:
- weights, gradients and Adam: 2 bytes a 16-bit weight, 12 a trainable for DeepSpeed's fp32 copy and two moments
  (Rajbhandari et al., ZeRO, section 3.1), 4.1 bits an nf4 weight with double quantisation (Dettmers et al., QLoRA);
- activations: the tensors that autograd keeps in transformers' Llama layer with peft's LoRA, counted from its code and
  compared with measured allocations by tests/planning/test_memory.py;
- logits: the head runs on supervised positions only (llava_finetune/model/modeling.py).
A GPU's context is a flat CONTEXT, and what the allocator loses a share of the rest; nothing else is padded. Without
DeepSpeed all of it is compared with pretended trainings at real widths (tests/pretended_gpu/test_trainings.py).

    >>> from llava_finetune.planning.shapes import read_shape
    >>> estimate(read_shape("liuhaotian/llava-v1.5-7b"), Setting("lora", batch=1)).total // 10**9
    22
"""

from dataclasses import asdict, dataclass

from llava_finetune.planning.shapes import Language, Shape, Vision

CONTEXT = 900_000_000
"""Bytes that CUDA's context and the workspaces of cuBLAS take on a GPU before and beside the tensors."""
ALLOCATOR = 0.04
"""What torch's caching allocator reserves beside all tensors, as a share of them: its rules replayed over pretended
trainings gave 3.4 % for a whole 7B LoRA, 3 to 11 % for two layers (llava_finetune/pretended_gpu/allocator.py)."""
PYTHON = {True: 3_000_000_000, False: 700_000_000}
"""Host bytes of one rank with torch, transformers and DeepSpeed imported: with CUDA's libraries, and without."""
BYTES_PER_WEIGHT = {16: 2.0, 8: 1.002, 4: 0.5 + 1 / 64 + 4 / (64 * 256)}
LOSS_CHUNK = 1024
"""Taught tokens whose logits exist at one time: the default of train's --loss_chunk."""
LIVE_PARAMETERS = 10**9
"""stage3_max_live_parameters of deepspeed_configs/zero3*.json: what ZeRO-3 gathers at a time."""
SUB_GROUP = 10**9
"""sub_group_size of deepspeed_configs/zero3*.json: ZeRO-3 steps that many parameters at a time."""


@dataclass(frozen=True)
class Setting:
    """How a model is trained; `mode` is pretrain, full, lora or qlora, `stage` 0 (no ZeRO), 2 or 3.

    `mask_bytes` of an element under dropout is a GPU's; on a CPU 4. `accumulated`: a step has several batches, so that
    gradients lie beside activations.
    """

    mode: str
    num_gpus: int = 1
    batch: int = 1
    checkpointing: bool = True
    stage: int = 2
    offload: bool = False
    bits: int = 4
    rank: int = 128
    dropout: float = 0.05
    targets: str = "language"
    text_tokens: int = 256
    supervised_tokens: int = 64
    images: int = 1
    max_length: int = 2048
    weight_bytes: int = 2
    mask_bytes: int = 1
    accumulated: bool = True

    @property
    def base_bits(self) -> int:
        """Bits of the language model's linear weights."""
        return self.bits if self.mode == "qlora" else 16

    @property
    def wide_stream(self) -> bool:
        """Whether the hidden states are fp32: peft casts a quantised base's other weights so; only ZeRO undoes it."""
        return self.base_bits != 16 and self.stage < 2

    @property
    def fast_lora(self) -> bool:
        """Whether LoRA's layers run as one function (llava_finetune/kernels/fast_lora.py) and not as peft's several."""
        return self.mode == "lora" and self.stage < 3

    @property
    def stream_bytes(self) -> int:
        """Bytes of one value of the hidden states."""
        return 4 if self.wide_stream else self.weight_bytes

    @property
    def fast_mask_bytes(self) -> int:
        """Bytes of an element's dropout mask in fast LoRA: a GPU's, else as wide as the element."""
        return 1 if self.mask_bytes == 1 else self.weight_bytes

    @property
    def has_adapters(self) -> bool:
        """Whether LoRA adapters are trained."""
        return self.mode in ("lora", "qlora")


@dataclass(frozen=True)
class Estimate:
    """Bytes on one GPU by part; `total` is the peak. `temporary` is what the worst moment holds besides the rest."""

    weights: int
    adapters: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    temporary: int
    context: int
    allocator: int

    @property
    def tensors(self) -> int:
        """Peak bytes of tensors alone."""
        return self.total - self.context - self.allocator

    @property
    def total(self) -> int:
        """Peak bytes on one GPU."""
        return sum(asdict(self).values())


def sequence_length(shape: Shape, setting: Setting) -> int:
    """Positions of one record: its text, and the tokens of its pictures, cut at the model's length."""
    return min(setting.text_tokens + setting.images * shape.image_tokens, setting.max_length)


def trainable_parameters(shape: Shape, setting: Setting) -> int:
    """Parameters that this mode trains: the projector, and adapters or the whole language model."""
    language = shape.language.num_parameters if setting.mode == "full" else 0
    return shape.projector_parameters + _adapters(shape, setting) + language


def estimate(shape: Shape, setting: Setting) -> Estimate:
    """Bytes on one GPU for this model and setting."""
    trained = trainable_parameters(shape, setting)
    shards = setting.num_gpus if setting.stage >= 2 else 1
    spread = setting.num_gpus if setting.stage == 3 else 1
    trained_bytes = setting.weight_bytes if setting.stage >= 2 or setting.mode == "full" else 4
    frozen = _weight_bytes(shape, setting) - _projector_bytes(shape, setting)
    resident = (frozen + trained_bytes * shape.projector_parameters) / spread
    parts = {
        "weights": round(0 if setting.offload and setting.stage == 3 else resident),
        "adapters": round(trained_bytes * _adapters(shape, setting) / spread),
        "gradients": round(0 if setting.offload else trained_bytes * trained / shards),
        "optimizer": round(0 if setting.offload else _optimizer_bytes(setting) * trained / shards),
        "activations": _activations(shape, setting) - _never_together(shape, setting, trained_bytes * trained),
        "logits": _logits(shape, setting),
        "temporary": _temporary(shape, setting, trained, shards),
    }
    return Estimate(**parts, context=CONTEXT, allocator=round(ALLOCATOR * sum(parts.values())))


def host_ram(shape: Shape, setting: Setting, *, on_gpu: bool) -> int:
    """Bytes of RAM that `num_gpus` ranks of one machine need: to load, to offload, or on a CPU for everything."""
    ranks = setting.num_gpus
    if not on_gpu:
        return ranks * (PYTHON[False] + estimate(shape, setting).tensors)
    weights = 2 * (shape.language.num_parameters + shape.vision.num_parameters + shape.projector_parameters)
    loading = weights if setting.stage == 3 else (weights // 4 if setting.mode == "qlora" else weights) * ranks
    trained = trainable_parameters(shape, setting)
    offloaded = (16 * trained + (weights if setting.stage == 3 else 0)) if setting.offload else 0
    return ranks * PYTHON[True] + max(loading, offloaded)


def _adapters(shape: Shape, setting: Setting) -> int:
    return shape.lora_parameters(setting.rank, setting.targets) if setting.has_adapters else 0


def _weight_bytes(shape: Shape, setting: Setting) -> float:
    """The base's weights before sharding: linears of the language model quantised, the rest in 16 bit."""
    language = shape.language
    linears = language.layers * language.layer_linear_parameters
    rest = language.num_parameters - linears + shape.vision.num_parameters + shape.projector_parameters
    per_linear = float(setting.weight_bytes) if setting.base_bits == 16 else BYTES_PER_WEIGHT[setting.base_bits]
    extra = (4 - setting.weight_bytes) * (language.num_parameters - linears) if setting.wide_stream else 0
    return per_linear * linears + setting.weight_bytes * rest + extra


def _projector_bytes(shape: Shape, setting: Setting) -> int:
    return setting.weight_bytes * shape.projector_parameters


def _optimizer_bytes(setting: Setting) -> int:
    """Adam's bytes a trainable: fp32 copy and moments under ZeRO, else the moments in the trainables' own dtype."""
    if setting.stage >= 2:
        return 12
    return 2 * setting.weight_bytes if setting.mode == "full" else 8


def _layer_bytes_per_token(language: Language, setting: Setting) -> float:
    """Bytes that autograd keeps of one layer and token: what a layer without checkpointing costs.

    Two norms keep their input in fp32; attention keeps q, k, v and its output; the MLP keeps gate, up and silu(gate).
    A trained weight keeps its input; LoRA keeps its inner product and mask of each module, and what the mask is for.
    """
    w = setting.weight_bytes
    h, i, q, kv = language.hidden, language.intermediate, language.query_size, language.kv_size
    product = w if setting.base_bits == 8 else setting.stream_bytes  # 8-bit ones hand on autocast's 16 bit
    kept = 8 * h + w * (2 * q + 2 * kv) + product * 3 * i + 4 * language.heads
    if setting.mode == "full":
        return kept + w * 4 * h + w * i
    if setting.has_adapters:
        names = language.linears()
        chosen = {name: size for name, size in names.items() if _adapted(name, setting.targets)}
        kept += sum(w * setting.rank for _ in chosen)
        inputs = w * (h * ("q_proj" in chosen) + h * ("gate_proj" in chosen) + i * ("down_proj" in chosen))
        wide = sum(rows for rows, _ in chosen.values())
        if setting.dropout == 0:
            kept += inputs
        elif setting.fast_lora:
            kept += inputs + setting.fast_mask_bytes * wide  # masks, and the inputs that several modules share
        else:
            kept += (w + setting.mask_bytes) * wide
    return float(kept)


def _tower_bytes_per_patch(vision: Vision, setting: Setting) -> float:
    """Bytes that autograd keeps of one layer of an adapted tower and patch.

    Norms keep their input; attention keeps q, k, v and its output; the MLP keeps both factors of its activation. The
    adapters keep as in the language model.
    """
    w, h, i = setting.weight_bytes, vision.hidden, vision.intermediate
    kept = w * (2 * h + 4 * h + 2 * i) + 6 * w * setting.rank
    wide = 5 * h + i
    if setting.dropout == 0:
        return float(kept + w * (2 * h + i))
    if setting.fast_lora:
        return float(kept + w * (2 * h + i) + setting.fast_mask_bytes * wide)
    return float(kept + (w + setting.mask_bytes) * wide)


def _tower_activations(shape: Shape, setting: Setting) -> tuple[float, float]:
    """What the read layers of an adapted tower keep: their inputs, and one layer whole. Nothing where it is frozen."""
    if not setting.has_adapters or "vision" not in [part.strip() for part in setting.targets.split(",")]:
        return 0.0, 0.0
    vision = shape.vision
    patches = setting.batch * setting.images * shape.views * (vision.num_patches + 1)
    inputs = setting.weight_bytes * vision.hidden * (shape.select_layer % (vision.layers + 1))
    return inputs * patches, _tower_bytes_per_patch(vision, setting) * patches


def _adapted(name: str, targets: str) -> bool:
    parts = [part.strip() for part in targets.split(",")]
    return "language" in parts or ("language.attention" in parts and name in ("q_proj", "k_proj", "v_proj", "o_proj"))


def _activations(shape: Shape, setting: Setting) -> int:
    """Kept for the backward pass: every layer; with checkpointing every layer's input, and one layer computed again."""
    language, tokens = shape.language, setting.batch * sequence_length(shape, setting)
    patches = setting.batch * setting.images * shape.views * shape.vision.num_patches
    projector = patches * setting.weight_bytes * (shape.vision.hidden + 2 * language.hidden)
    # fp32 adapters (no ZeRO) run through autocast: a 16-bit copy of each is kept, under checkpointing one layer's.
    copies = 0 if setting.stage >= 2 else setting.weight_bytes * _adapters(shape, setting)
    copies //= language.layers if setting.checkpointing else 1
    # The embeddings before and after the pictures are spliced in, and the last norm's input in fp32.
    spliced = tokens * language.hidden * (2 * setting.weight_bytes + 4)
    return round(_kept_of_layers(shape, setting) + _computed_again(shape, setting) + copies + projector + spliced)


def _kept_of_layers(shape: Shape, setting: Setting) -> float:
    """What lies from the forward pass until each layer's backward: all of a layer, or its input."""
    language, tokens = shape.language, setting.batch * sequence_length(shape, setting)
    seen_inputs, seen_layer = _tower_activations(shape, setting)
    if setting.checkpointing:
        return setting.stream_bytes * language.hidden * language.layers * tokens + seen_inputs
    used = shape.select_layer % (shape.vision.layers + 1)
    return _layer_bytes_per_token(language, setting) * tokens * language.layers + seen_layer * used


def _computed_again(shape: Shape, setting: Setting) -> float:
    """One layer under checkpointing, of the language model or the tower, whichever keeps more."""
    if not setting.checkpointing:
        return 0.0
    tokens = setting.batch * sequence_length(shape, setting)
    return max(_layer_bytes_per_token(shape.language, setting) * tokens, _tower_activations(shape, setting)[1])


def _never_together(shape: Shape, setting: Setting, gradients: float) -> int:
    """Without accumulation and DeepSpeed a layer's gradients come when what was kept of it goes: the less of both."""
    if setting.accumulated or setting.stage >= 2:
        return 0
    return round(min(gradients, _kept_of_layers(shape, setting)))


def _logits(shape: Shape, setting: Setting) -> int:
    """Logits of one chunk of supervised positions: 16-bit, their fp32 copy, its softmax and its gradient.

    Under checkpointing they are gone before a layer is computed again: what they take beyond that.
    """
    tokens = setting.batch * min(setting.supervised_tokens, sequence_length(shape, setting))
    if setting.stage < 3:  # ZeRO-3 does not cut the head's work into chunks
        tokens = min(tokens, LOSS_CHUNK)
    logits = tokens * shape.language.vocabulary * (setting.weight_bytes + 12)
    return max(0, logits - round(_computed_again(shape, setting)))


def _temporary(shape: Shape, setting: Setting, trained: int, shards: int) -> int:
    """What the worst moment holds besides what is kept: a layer's backward, the tower's forward, the optimizer's step.

    The moments do not meet: the logits are gone when a layer's backward begins, and neither the tower's forward nor
    the step meets the activations.
    """
    language, tokens = shape.language, setting.batch * sequence_length(shape, setting)
    logits = _logits(shape, setting)
    kept = _activations(shape, setting) + logits
    fp32_adapters = setting.mode == "qlora" and setting.stage < 2
    backward = tokens * language.intermediate * (2 * setting.stream_bytes + (4 if fp32_adapters else 0))
    if setting.base_bits != 16:  # one weight unpacked: 8-bit ones in the type of the hidden states
        unpacked = setting.stream_bytes if setting.base_bits == 8 else 2
        backward += unpacked * max(rows * columns for rows, columns in language.linears().values())
    if setting.mode == "full":
        backward += setting.weight_bytes * max(rows * columns for rows, columns in language.linears().values())
    step = _step_bytes(setting, trained // shards)
    patches = setting.batch * setting.images * shape.views * (shape.vision.num_patches + 1)
    # The tower is asked for one hidden state and keeps all of them.
    per_patch = shape.vision.hidden * (shape.vision.layers + 8) + shape.vision.intermediate
    tower = setting.weight_bytes * patches * per_patch
    sharded = setting.stage == 3 and (setting.num_gpus > 1 or setting.offload)
    gathered = 2 * min(LIVE_PARAMETERS, language.num_parameters) if sharded else 0
    return round(max(backward - logits, tower - kept, step - kept, 0) + gathered)


def _step_bytes(setting: Setting, trained: int) -> int:
    """Bytes of the optimizer's step besides what is kept.

    Fused Adam keeps nothing of its own. ZeRO makes an fp32 copy of its 16-bit gradients first and then drops them, but
    for ZeRO-2's buffer of several ranks; ZeRO-3 does so for one sub-group at a time.
    """
    if setting.offload or setting.stage < 2:
        return 0
    if setting.stage == 3:
        return 6 * min(trained, SUB_GROUP)
    return (6 + (2 if setting.num_gpus > 1 else 0)) * trained
