"""Bytes that autograd keeps from the forward pass for the backward pass, by layer and token.

The tensors are those of transformers' Llama layer with peft's LoRA, counted from their code, and compared with measured
allocations by tests/planning/test_memory.py.

    activation_bytes(shape, Setting("lora", batch=4)) // 10**9
"""

from llava_finetune.planning.setting import Setting
from llava_finetune.planning.shapes import Language, Shape, Vision

LOSS_CHUNK = 1024
"""Taught tokens whose logits exist at one time: the default of train's --loss_chunk."""


def sequence_length(shape: Shape, setting: Setting) -> int:
    """Positions of one record: its text, and the tokens of its pictures, cut at the model's length."""
    return min(setting.text_tokens + setting.images * shape.image_tokens, setting.max_length)


def batch_positions(shape: Shape, setting: Setting) -> int:
    """Positions of a batch: those of all records, and of a picture that some of them share its own once."""
    each = sequence_length(shape, setting)
    pictures = min(setting.images * shape.image_tokens, each)
    return setting.batch * (each - pictures) + setting.num_pictures * pictures


def adapter_parameters(shape: Shape, setting: Setting) -> int:
    return shape.lora_parameters(setting.rank, setting.targets) if setting.has_adapters else 0


def _layer_bytes_per_token(language: Language, setting: Setting) -> float:
    """Bytes that autograd keeps of one layer and token: what a layer without checkpointing costs.

    Two norms keep their input, in fp32 where they are no kernels; attention keeps q, k, v and its output; the MLP keeps
    gate, up and silu(gate). A trained weight keeps its input; LoRA keeps its inner product and mask of each module, and
    what the mask is for.
    """
    w = setting.weight_bytes
    h, i, q, kv = language.hidden, language.intermediate, language.query_size, language.kv_size
    product = w if setting.base_bits == 8 else setting.stream_bytes  # 8-bit ones hand on autocast's 16 bit
    fused = norms_are_kernels(language, setting)
    norms = 2 * setting.stream_bytes * h + 8 if fused else 8 * h
    kept = norms + w * (2 * q + 2 * kv) + product * 3 * i + 4 * language.heads
    if setting.mode == "full":
        return kept + w * (2 if fused else 4) * h + w * i
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


def norms_are_kernels(language: Language, setting: Setting) -> bool:
    """Whether a norm is one kernel (llava_finetune/kernels/fused_norm.py): on a GPU, for language models it knows."""
    return setting.fused_norms and language.kernel_norms and setting.mask_bytes == 1


def _layer_bytes(shape: Shape, setting: Setting) -> float:
    """What one layer keeps of a batch; attention keeps the keys and values of a shared picture for each question."""
    positions = batch_positions(shape, setting)
    copied = setting.batch * sequence_length(shape, setting) - positions
    kept = _layer_bytes_per_token(shape.language, setting) * positions
    return kept + copied * 2 * setting.weight_bytes * shape.language.kv_size


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
    patches = setting.num_pictures * setting.images * shape.views * (vision.num_patches + 1)
    inputs = setting.weight_bytes * vision.hidden * (shape.select_layer % (vision.layers + 1))
    return inputs * patches, _tower_bytes_per_patch(vision, setting) * patches


def _adapted(name: str, targets: str) -> bool:
    parts = [part.strip() for part in targets.split(",")]
    return "language" in parts or ("language.attention" in parts and name in ("q_proj", "k_proj", "v_proj", "o_proj"))


def activation_bytes(shape: Shape, setting: Setting) -> int:
    """Kept for the backward pass: every layer; with checkpointing every layer's input, and one layer computed again."""
    language, tokens = shape.language, batch_positions(shape, setting)
    patches = setting.num_pictures * setting.images * shape.views * shape.vision.num_patches
    projector = patches * setting.weight_bytes * (shape.vision.hidden + 2 * language.hidden)
    # fp32 adapters (no ZeRO) run through autocast: a 16-bit copy of each is kept, under checkpointing one layer's.
    copies = 0 if setting.stage >= 2 else setting.weight_bytes * adapter_parameters(shape, setting)
    copies //= language.layers if setting.checkpointing else 1
    # The embeddings before and after the pictures are spliced in, and the last norm's input.
    normed = setting.stream_bytes if norms_are_kernels(language, setting) else 4
    spliced = tokens * language.hidden * (2 * setting.weight_bytes + normed)
    return round(_kept_of_layers(shape, setting) + _computed_again(shape, setting) + copies + projector + spliced)


def _kept_of_layers(shape: Shape, setting: Setting) -> float:
    """What lies from the forward pass until each layer's backward: all of a layer, or its input."""
    language, tokens = shape.language, batch_positions(shape, setting)
    seen_inputs, seen_layer = _tower_activations(shape, setting)
    if setting.checkpointing:
        return setting.stream_bytes * language.hidden * language.layers * tokens + seen_inputs
    used = shape.select_layer % (shape.vision.layers + 1)
    return _layer_bytes(shape, setting) * language.layers + seen_layer * used


def _computed_again(shape: Shape, setting: Setting) -> float:
    """One layer under checkpointing, of the language model or the tower, whichever keeps more."""
    if not setting.checkpointing:
        return 0.0
    return max(_layer_bytes(shape, setting), _tower_activations(shape, setting)[1])


def never_together(shape: Shape, setting: Setting, gradients: float) -> int:
    """Without accumulation and DeepSpeed a layer's gradients come when what was kept of it goes: the less of both."""
    if setting.accumulated or setting.stage >= 2:
        return 0
    return round(min(gradients, _kept_of_layers(shape, setting)))


def logit_bytes(shape: Shape, setting: Setting) -> int:
    """Logits of one chunk of supervised positions: 16-bit, their fp32 copy, its softmax and its gradient.

    Under checkpointing they are gone before a layer is computed again: what they take beyond that.
    """
    tokens = setting.batch * min(setting.supervised_tokens, sequence_length(shape, setting))
    if setting.stage < 3:  # ZeRO-3 does not cut the head's work into chunks
        tokens = min(tokens, LOSS_CHUNK)
    logits = tokens * shape.language.vocabulary * (setting.weight_bytes + 12)
    return max(0, logits - round(_computed_again(shape, setting)))
