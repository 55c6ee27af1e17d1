"""Bytes per GPU of a training, by part, from shapes alone: the arithmetic behind `llava-finetune plan`.

What is counted, and where it comes from:
- weights, gradients and Adam: 2 bytes a 16-bit weight, 12 a trainable for DeepSpeed's fp32 copy and two moments
  (Rajbhandari et al., ZeRO, section 3.1), 4.1 bits an nf4 weight with double quantisation (Dettmers et al., QLoRA);
- activations: llava_finetune/planning/activations.py;
- logits: the head runs on supervised positions only (llava_finetune/model/modeling.py).
A GPU's context is a flat CONTEXT, and what the allocator loses a share of the rest, by mode; nothing else is padded.
Without DeepSpeed all of it is compared with pretended trainings at real widths (tests/pretended_gpu/test_trainings.py).

    >>> from llava_finetune.planning.from_config import read_shape
    >>> estimate(read_shape("liuhaotian/llava-v1.5-7b"), Setting("lora", batch=1)).total // 10**9
    22
"""

from dataclasses import asdict, dataclass

from llava_finetune.planning.activations import (
    activation_bytes,
    adapter_parameters,
    batch_positions,
    logit_bytes,
    never_together,
)
from llava_finetune.planning.setting import Setting
from llava_finetune.planning.shapes import Shape

CONTEXT = 900_000_000
"""Bytes that CUDA's context and the workspaces of cuBLAS take on a GPU before and beside the tensors."""
ALLOCATOR = 0.04
"""What torch's caching allocator reserves beside all tensors, as a share of them, where nothing was replayed."""
REPLAYED = {
    ("lora", True): 0.035,
    ("qlora", True): 0.09,
    ("qlora", False): 0.04,
    ("full", True): 0.01,
    ("full", False): 0.01,
    ("pretrain", True): 0.025,
    ("pretrain", False): 0.04,
}
"""The same by (mode, checkpointing): the most that the allocator's rules, replayed over pretended trainings of whole
models, took beside what was held or is counted (docs/pretended-gpu.md), up to the next half percent. Replayed were
batches of 1 and 4 in one process without DeepSpeed, the base in 16 or 4 bit."""
PYTHON = {True: 3_000_000_000, False: 700_000_000}
"""Host bytes of one rank with torch, transformers and DeepSpeed imported: with CUDA's libraries, and without."""
BYTES_PER_WEIGHT = {16: 2.0, 8: 1.002, 4: 0.5 + 1 / 64 + 4 / (64 * 256)}
FP8_BYTES = 1.001
"""Bytes of a weight in e4m3 with an fp32 scale for each row."""
LIVE_PARAMETERS = 10**9
"""stage3_max_live_parameters of deepspeed_configs/zero3*.json: what ZeRO-3 gathers at a time."""
SUB_GROUP = 10**9
"""sub_group_size of deepspeed_configs/zero3*.json: ZeRO-3 steps that many parameters at a time."""


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


def trainable_parameters(shape: Shape, setting: Setting) -> int:
    """Parameters that this mode trains: the projector, and adapters or the whole language model."""
    language = shape.language.num_parameters if setting.mode == "full" else 0
    return shape.projector_parameters + adapter_parameters(shape, setting) + language


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
        "adapters": round(trained_bytes * adapter_parameters(shape, setting) / spread),
        "gradients": round(0 if setting.offload else trained_bytes * trained / shards),
        "optimizer": round(0 if setting.offload else _optimizer_bytes(setting) * trained / shards),
        "activations": activation_bytes(shape, setting) - never_together(shape, setting, trained_bytes * trained),
        "logits": logit_bytes(shape, setting),
        "temporary": _temporary(shape, setting, trained, shards),
    }
    return Estimate(**parts, context=CONTEXT, allocator=round(_allocator_share(setting) * sum(parts.values())))


def _allocator_share(setting: Setting) -> float:
    """What was replayed; elsewhere ALLOCATOR, or what the same mode lost in the replay where that is more."""
    share = REPLAYED.get((setting.mode, setting.checkpointing), ALLOCATOR)
    replayed = setting.stage == 0 and setting.base_bits != 8 and not setting.in_fp8
    return share if replayed else max(share, ALLOCATOR)


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


def _weight_bytes(shape: Shape, setting: Setting) -> float:
    """The base's weights before sharding: linears of the language model quantised, the rest in 16 bit."""
    language = shape.language
    linears = language.layers * language.layer_linear_parameters
    rest = language.num_parameters - linears + shape.vision.num_parameters + shape.projector_parameters
    per_linear = float(setting.weight_bytes) if setting.base_bits == 16 else BYTES_PER_WEIGHT[setting.base_bits]
    per_linear = FP8_BYTES if setting.in_fp8 else per_linear
    extra = (4 - setting.weight_bytes) * (language.num_parameters - linears) if setting.wide_stream else 0
    return per_linear * linears + setting.weight_bytes * rest + extra


def _projector_bytes(shape: Shape, setting: Setting) -> int:
    return setting.weight_bytes * shape.projector_parameters


def _optimizer_bytes(setting: Setting) -> int:
    """Adam's bytes a trainable: fp32 copy and moments under ZeRO, else the moments in the trainables' own dtype."""
    if setting.stage >= 2:
        return 12
    return 2 * setting.weight_bytes if setting.mode == "full" else 8


def _temporary(shape: Shape, setting: Setting, trained: int, shards: int) -> int:
    """What the worst moment holds besides what is kept: a layer's backward, the tower's forward, the optimizer's step.

    The moments do not meet: the logits are gone when a layer's backward begins, and neither the tower's forward nor
    the step meets the activations.
    """
    language, tokens = shape.language, batch_positions(shape, setting)
    logits = logit_bytes(shape, setting)
    kept = activation_bytes(shape, setting) + logits
    fp32_adapters = setting.mode == "qlora" and setting.stage < 2
    backward = tokens * language.intermediate * (2 * setting.stream_bytes + (4 if fp32_adapters else 0))
    if setting.base_bits != 16:  # one weight unpacked: 8-bit ones in the type of the hidden states
        unpacked = setting.stream_bytes if setting.base_bits == 8 else 2
        backward += unpacked * max(rows * columns for rows, columns in language.linears().values())
    if setting.in_fp8:  # a gradient scaled, rounded and in bytes; a weight turned
        backward += tokens * language.intermediate * (2 * setting.weight_bytes + 1)
        backward += max(rows * columns for rows, columns in language.linears().values())
    if setting.mode == "full":
        backward += setting.weight_bytes * max(rows * columns for rows, columns in language.linears().values())
    step = _step_bytes(setting, trained // shards)
    patches = setting.num_pictures * setting.images * shape.views * (shape.vision.num_patches + 1)
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
