"""The parts of a merge: held-out cases, logits, the account of every tensor, the folder that is written.

cases, source = load_cases(adapter, loaded, records=None, images=None, count=8)
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llava_finetune.convert.parity import forward, logit_tolerance, probe_ids, usable_probes
from llava_finetune.errors import UserError
from llava_finetune.merge.family import family_logits, generated_cases, record_cases, write_family
from llava_finetune.saved import tensor_names
from llava_finetune.saved.model_files import TOKENIZER_FILES
from llava_finetune.saved.shards import ShardWriter, StoredTensor, tensor_inventory

SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Case:
    """One conversation, encoded, with its pictures (RGB)."""

    input_ids: list[int]
    pictures: tuple[Any, ...]


@dataclass(frozen=True)
class Difference:
    """The largest difference of logits over all text positions, and what the dtype's noise allows."""

    largest: float
    allowed: float


def run_records(adapter: Path) -> tuple[Path, Path | None] | None:
    """Held-out records and image folder of a run, when they are still there.

    run.json names the evaluation file; without one, test.json or val.json beside the training file is taken.
    """
    from llava_finetune.saved.manifest import read_json

    for folder in (adapter, adapter.parent):
        if (folder / "run.json").is_file():
            arguments = read_json(folder / "run.json").get("arguments") or {}
            beside = Path(arguments.get("data_path") or "").parent
            candidates = [arguments.get("eval_data_path"), *(beside / name for name in ("test.json", "val.json"))]
            images = arguments.get("eval_image_folder") or arguments.get("image_folder")
            for records in candidates:
                if records and Path(records).is_file():
                    return Path(records), Path(images) if images else None
    return None


def load_cases(
    adapter: str, loaded: Any, records: Path | None, images: Path | None, count: int
) -> tuple[list[Any], str]:
    """Cases to compare on, and what they are in words."""
    found = (records, images) if records else run_records(Path(adapter))
    if loaded.family is not None:
        return _family_cases(loaded, found, count)
    if found is None:
        size = loaded.model.get_vision_tower().config.image_size
        chosen = usable_probes(loaded.template, size)
        return [
            Case(probe_ids(p, loaded.template, loaded.tokenizer)[0], p.pictures) for p in chosen
        ], "generated conversations"
    return [
        _record_case(record, loaded, found[1]) for record in _first(found[0], count)
    ], f"held-out records of {found[0]}"


def _family_cases(loaded: Any, found: tuple[Path, Path | None] | None, count: int) -> tuple[list[Any], str]:
    family = loaded.family
    if found is None:
        return generated_cases(family, family.config.vision_config.image_size), "generated conversations"
    records = _first(found[0], count)
    return record_cases(family, records, found[1], loaded.context_length), f"held-out records of {found[0]}"


def _first(path: Path, count: int) -> list[Any]:
    from data_prep.records.record import read_records

    records = read_records(path)
    if not len(records):
        raise UserError(f"{path}: no records to verify on; give others with --records")
    return [records[index] for index in range(min(count, len(records)))]


def _record_case(record: Any, loaded: Any, folder: Path | None) -> Case:
    from data_prep.records.record import images_of, open_image, resolve_image
    from llava_finetune.data.masking import encode

    images = images_of(record)
    if images and folder is None:
        raise UserError(f"record {record.get('id')!r} has a picture; give its folder with --images")
    pictures = tuple(open_image(resolve_image(folder, name)) for name in images) if folder else ()
    return Case(
        encode(record["conversations"], loaded.template, loaded.tokenizer, loaded.context_length).input_ids, pictures
    )


def logits_of(loaded: Any, cases: Sequence[Any]) -> list[torch.Tensor]:
    """Logits (text positions x vocabulary, fp32, CPU) of every case. Raises UserError when one is not a number."""
    out = []
    for case in cases:
        if loaded.family is not None:
            logits = family_logits(loaded, case)
        else:
            run = forward(loaded, case.input_ids, case.pictures)
            logits = run.logits[run.is_text]
        if not bool(torch.isfinite(logits).all()):
            raise UserError(
                "the model's logits are NaN or infinite; its weights or its dtype are broken (try --dtype float32)"
            )
        out.append(logits)
    return out


def difference(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor], dtype: torch.dtype) -> Difference:
    """Largest difference of two lists of logits."""
    largest = max((a - b).abs().max().item() for a, b in zip(before, after, strict=True))
    return Difference(largest, logit_tolerance(dtype, max(a.abs().max().item() for a in before)))


def check_adapter_read(model: Any, adapter: Path) -> tuple[int, bool]:
    """How many layers are adapted, and whether some are the tower's; (0, False) for a projector alone.

    Raises UserError unless every tensor of the adapter file is in the model.
    """
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict, load_peft_weights

    if not isinstance(model, PeftModel):
        return 0, False
    stored = set(load_peft_weights(str(adapter), device="cpu"))
    used = set(get_peft_model_state_dict(model))
    if stored != used:
        odd = sorted(stored ^ used)
        raise UserError(
            f"{adapter}: {len(odd)} adapter tensors do not match the base, first {odd[0]}; is it another model's?"
        )
    adapted = [name for name in stored if name.endswith("lora_A.weight") or "lora_embedding_A" in name]
    return len(adapted), any("vision_tower" in name for name in adapted)


def model_tensors(model: Any, *, with_tower: bool) -> dict[str, torch.Tensor]:
    """Tensors of a merged model under upstream's names; a frozen tower stays in its folder, a tied head is left out."""
    tied = bool(getattr(model.config, "tie_word_embeddings", False))
    out: dict[str, torch.Tensor] = {}
    for name, value in model.state_dict().items():
        parsed = tensor_names.from_upstream(name)
        if tensor_names.is_buffer(name) or (parsed and parsed.part == "tower" and not with_tower):
            continue
        if parsed and parsed.part == "head" and tied:
            continue
        out[tensor_names.to_upstream(parsed) if parsed else name] = value
    return out


def check_tensors(tensors: dict[str, torch.Tensor], base: str | None) -> None:
    """Raise UserError when a tensor is not finite, still an adapter's, or one of the base's is missing."""
    for name, value in tensors.items():
        if "lora_" in name or ".base_layer." in name:
            raise UserError(f"{name} is left of the adapter: it was not merged")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise UserError(f"{name} holds NaN or infinity after the merge; nothing was written")
    if base is None or not Path(base).is_dir():
        return
    kept = {tensor_names.from_upstream(name) or name for name in tensors}
    for name, _, _ in tensor_inventory(Path(base)):
        parsed = tensor_names.from_upstream(name) or name
        optional = isinstance(parsed, tensor_names.Name) and parsed.part in ("tower", "head", "projector")
        if not optional and not tensor_names.is_buffer(name) and parsed not in kept:
            raise UserError(f"{base}: its tensor {name} is not in the merged model; nothing was written")


def write_model(folder: Path, loaded: Any, adapter: Path, base: str, *, in_tower: bool) -> int:
    """Write `folder` from a model whose adapter is merged; returns the number of tensors. `in_tower`: so it is, too."""
    if loaded.family is not None:
        tensors = write_family(folder, loaded)
        check_tensors(tensors, None)
        _write_merged_manifest(folder, loaded, adapter, base)
        return len(tensors)
    model, config = loaded.model, loaded.model.config
    config.unfreeze_mm_vision_tower = bool(getattr(config, "unfreeze_mm_vision_tower", False) or in_tower)
    config.tokenizer_padding_side = "right"
    config.tune_mm_mlp_adapter = False
    config.dtype = loaded.dtype
    tensors = model_tensors(model, with_tower=config.unfreeze_mm_vision_tower)
    check_tensors(tensors, base)
    save(folder, tensors, config, model.generation_config, (adapter, Path(base)))
    _write_merged_manifest(folder, loaded, adapter, base)
    return len(tensors)


def _write_merged_manifest(folder: Path, loaded: Any, adapter: Path, base: str) -> None:
    from llava_finetune.saved.manifest import weights_sha256, write_manifest

    write_manifest(
        folder,
        kind="model",
        base=base,
        conversation=loaded.template,
        dtype=str(loaded.dtype).removeprefix("torch."),
        merged_from=str(adapter.resolve()),
        merged_sha256=weights_sha256(adapter),
    )


def note_check(folder: Path, found: Difference, num_records: int, num_answers: int) -> None:
    """Write into the manifest how the folder was verified."""
    from llava_finetune.saved.manifest import NAME, read_manifest, write_json

    verified = {
        "records": num_records,
        "largest_logit_difference": found.largest,
        "allowed": found.allowed,
        "identical_greedy_answers": num_answers,
    }
    write_json(folder / NAME, {**read_manifest(folder), "verified": verified})


def save(folder: Path, tensors: dict[str, torch.Tensor], config: Any, generation: Any, beside: Sequence[Path]) -> None:
    """Write weights (shards of 5 GB), configs, and the tokenizer and picture files found first in `beside`."""
    writer = ShardWriter(folder)
    for shard in _shards(tensors):
        writer.add_shard(
            [StoredTensor(name, tuple(t.shape), t.dtype, functools.partial(torch.Tensor.cpu, t)) for name, t in shard]
        )
    writer.finish()
    config.save_pretrained(folder)
    generation.save_pretrained(folder)
    for name in (*TOKENIZER_FILES, "chat_template.jinja", "preprocessor_config.json"):
        source = next((place / name for place in beside if (place / name).is_file()), None)
        if source is not None:
            shutil.copyfile(source, folder / name)


def _shards(tensors: dict[str, torch.Tensor]) -> Iterator[list[tuple[str, torch.Tensor]]]:
    shard: list[tuple[str, torch.Tensor]] = []
    size = 0
    for name, value in tensors.items():
        count = value.numel() * value.element_size()
        if shard and size + count > SHARD_BYTES:
            yield shard
            shard, size = [], 0
        shard.append((name, value))
        size += count
    yield shard
