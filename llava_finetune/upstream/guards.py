"""Checks in upstream's own trainer and forward pass: what went wrong in silence is now an error that names the record.

Behind seams in upstream's `train` and `prepare_inputs_labels_for_multimodal`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from data_prep.records.marks import IGNORE_INDEX
from llava_finetune.errors import UserError

#: config.json's value, the flag that forgets it, and the flag's default in upstream's dataclasses.
BASE_WINS = (
    ("mm_projector_type", "mm_projector_type", "linear"),
    ("mm_vision_select_layer", "mm_vision_select_layer", -1),
    ("mm_vision_select_feature", "mm_vision_select_feature", "patch"),
    ("mm_patch_merge_type", "mm_patch_merge_type", "flat"),
    ("mm_use_im_start_end", "mm_use_im_start_end", False),
    ("mm_use_im_patch_token", "mm_use_im_patch_token", True),
    ("image_aspect_ratio", "image_aspect_ratio", "square"),
)


def check_image_counts(input_ids: Sequence[torch.Tensor], features: Sequence[Any], image_token: int) -> None:
    """Refuse a batch whose <image> tokens and pictures differ: features would shift to the next record.

    `input_ids`: one id tensor per record; `features`: one entry per picture. A record without <image> has one blank
    picture. Raises UserError with the counts per record.
    """
    tokens = [int((ids == image_token).sum()) for ids in input_ids]
    expected = sum(max(count, 1) for count in tokens)
    if expected == len(features):
        return
    raise UserError(
        f"{len(features)} pictures for {expected} places in a batch of {len(tokens)} records "
        f"(<image> tokens per record: {', '.join(map(str, tokens))}; a record without any takes one blank picture). "
        "Each record needs one picture per <image>, in human turns only; find it with: "
        "python -m data_prep check RECORDS --images FOLDER"
    )


def keep_base_values(config: Any, model_args: Any, data_args: Any) -> None:
    """A LLaVA base's mm_* values replace forgotten flags; a flag that contradicts one is an error.

    Upstream wrote its defaults over the base's config, and the tuned model loaded as another one.
    """
    if not hasattr(config, "mm_vision_tower"):
        return
    for name, flag, default in BASE_WINS:
        holder = data_args if hasattr(data_args, flag) else model_args
        given, base = getattr(holder, flag), getattr(config, name, None)
        if base is None or given == base:
            continue
        if given != default:
            raise UserError(
                f"--{flag} {given} contradicts the base's {name} {base!r} in its config.json; leave the flag out"
            )
        setattr(holder, flag, base)
    if data_args.image_aspect_ratio == "anyres":
        raise UserError(
            "the base cuts pictures into views (image_aspect_ratio anyres, LLaVA-1.6), which upstream's own trainer "
            "never learned; train it with: llava-finetune train"
        )


def choose_pad_token(tokenizer: Any) -> str:
    """unk, else the tokenizer's own pad, else a reserved token; never the end token, which padding would hide.

    Llama-3 and Qwen tokenizers have no unk token. Raises UserError when nothing fits.
    """
    names = (tokenizer.unk_token, tokenizer.pad_token)
    reserved = (name for name in tokenizer.get_vocab() if "reserved_special" in name or "pad" in name.lower())
    for name in (*names, "<|endoftext|>", *sorted(reserved)):
        token = name if name in tokenizer.get_vocab() else None
        if token and token not in (tokenizer.eos_token, tokenizer.bos_token):
            return str(token)
    raise UserError(
        "the tokenizer has no pad, unk or reserved token; add a pad token to its tokenizer_config.json, "
        "one that is not the end token"
    )


def choose_template(name: str, tokenizer: Any) -> Any:
    """Upstream's conversation template `name`. Raises UserError for another name, and for one that does not fit."""
    from llava_finetune.data.templates import UPSTREAM_LACKS, check_fits, conversation

    if name in UPSTREAM_LACKS:
        raise UserError(f"--version {name}: upstream's own trainer masks no such template; use llava-finetune train")
    template = conversation(name)
    check_fits(name, tokenizer)
    return template


def check_taught(labels: Sequence[torch.Tensor]) -> None:
    """Refuse a batch of which every label is masked: its loss would be shown as 0.0. Raises UserError."""
    if all(bool((each == IGNORE_INDEX).all()) for each in labels):
        raise UserError(
            f"a batch of {len(labels)} records teaches nothing: every label is masked. Upstream's masks are wrong for "
            "this --version and tokenizer (ChatML, several rounds of mistral_instruct), or --model_max_length cuts the "
            "answers off; llava-finetune train masks every template rightly and names such records"
        )


def load_projector(projector: Any, weights: dict[str, torch.Tensor], where: str) -> None:
    """`load_state_dict` that also works on parameters that ZeRO-3 has split. Raises UserError for another shape."""
    parameters = list(projector.parameters())
    split = any(hasattr(parameter, "ds_id") for parameter in parameters)
    shapes = {name: list(getattr(value, "ds_shape", value.shape)) for name, value in projector.named_parameters()}
    given = {name: list(value.shape) for name, value in weights.items()}
    if shapes != given:
        raise UserError(
            f"{where}: expected projector weights {shapes}, found {given}; set the --mm_projector_type of it"
        )
    if not split:
        projector.load_state_dict(weights)
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parameters, modifier_rank=0):
        if torch.distributed.get_rank() == 0:
            projector.load_state_dict(weights)


def mend_generation_config(model: Any) -> None:
    """Sampling values without do_sample cannot be saved; they go, as nothing samples with them."""
    config = getattr(model, "generation_config", None)
    if config is not None and not config.do_sample:
        for name in ("temperature", "top_p", "top_k", "min_p", "typical_p"):
            if getattr(config, name, None) is not None:
                setattr(config, name, None)


def dry_save(model: Any, output_dir: str) -> None:
    """Save the configs into a folder beside the output and remove it: what would fail after hours fails now."""
    parent = Path(output_dir)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".dry-save-", dir=parent) as folder:
            model.config.save_pretrained(folder)
            model.generation_config.save_pretrained(folder)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{output_dir}: the model could not be saved there: {error}") from error


def is_clip(vision_tower: str) -> bool:
    """True for any CLIP vision model, a folder or a hub id, whatever it is called."""
    from llava_finetune.saved.folders import read_json
    from llava_finetune.saved.supported import CLIPS

    config = read_json(vision_tower, "config.json")
    if config is None:
        raise UserError(
            f"vision tower {vision_tower}: no folder with a config.json and no hub model; "
            "give --vision_tower, or vision_tower= when loading, a CLIP folder"
        )
    return str(config.get("model_type", "")) in CLIPS
