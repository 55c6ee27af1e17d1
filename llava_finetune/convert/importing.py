"""`llava-finetune import`: a llava-hf model in upstream's layout, to fine-tune it from the official source.

Why: llava-hf checkpoints (llava-1.5-7b-hf, llava-v1.6-mistral-7b-hf, tiny-llava-v1-hf ...) name their tensors otherwise
and hold the vision tower inside; upstream wants a flat config and a tower folder. The folder only appears when token
ids, pixel values and logits agree with transformers' own model.

    llava-finetune import llava-hf/llava-1.5-7b-hf llava-1.5-7b
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_finetune.convert.command import conversion_parser, report
from llava_finetune.data.own_template import NAME as OWN
from llava_finetune.data.own_template import named_template
from llava_finetune.errors import UsageError, UserError
from llava_finetune.saved.language_types import OTHER_LANGUAGES

TOWER = "vision_tower"
EXAMPLES = """examples:
  llava-finetune import llava-hf/llava-1.5-7b-hf llava-1.5-7b
  llava-finetune import exported back --conversation vicuna_v1
  MODEL=llava-1.5-7b DATA=train.json IMAGES=images OUTPUT=runs/mine scripts/finetune_lora.sh

The tower is written to OUTPUT/vision_tower. The conversion streams one tensor at a time; the check at the end loads the
model once in each implementation, one after the other.
exit codes: 0 done, 1 refused or failed, 2 wrong use"""


@dataclass(frozen=True)
class Imported:
    """What was written and how it was verified."""

    folder: str
    model_type: str
    conversation: str
    image_aspect_ratio: str
    tensors: str
    verified: str
    notes: tuple[str, ...]
    seconds: float


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    out = conversion_parser(
        "import",
        "Write a llava-hf model in upstream's layout, verified against transformers.",
        EXAMPLES,
        model="folder or hub id in llava-hf's layout",
    )
    out.add_argument(
        "--image-aspect-ratio",
        choices=("pad", "square"),
        help="pad to a square, or crop; default: what the processor says, else pad, as LLaVA-1.5 was trained",
    )
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when the folder was written and verified."""
    a = parser().parse_args(argv)
    result = import_model(
        a.model,
        a.output,
        conversation=a.conversation,
        aspect_ratio=a.image_aspect_ratio,
        dtype=a.dtype,
        device=a.device,
    )
    lines = (
        f"{result.folder}: {result.model_type}, {result.tensors}",
        result.verified,
        *(f"note: {note}" for note in result.notes),
        f"conversation {result.conversation}, pictures {result.image_aspect_ratio}; {result.seconds:.0f} s",
        f"fine-tune it: MODEL={result.folder} DATA=... IMAGES=... OUTPUT=... bash scripts/finetune_lora.sh",
    )
    return report(result, lines, as_json=a.json)


def import_model(
    model: str,
    output: Path,
    *,
    conversation: str | None = None,
    aspect_ratio: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
) -> Imported:
    """Convert, verify, and let the folder appear. Raises UserError, and writes nothing, when anything disagrees."""
    from llava_finetune.convert import configs
    from llava_finetune.saved import new_folder
    from llava_finetune.saved.manifest import read_json, read_manifest
    from llava_finetune.saved.sound import blamed_on, require_sound

    start = time.monotonic()
    new_folder.check_free(output)
    source = new_folder.resolve_folder(model)
    require_sound(source)
    config = dict(read_json(source / "config.json"))
    family = configs.llava_hf_family(config)
    manifest = read_manifest(source)
    template = conversation or manifest.get("conversation") or guess_conversation(source, config)
    aspect, notes = choose_aspect(source, family, aspect_ratio)
    with new_folder.new_folder(output) as partial:
        tally = _write(source, partial, output, config, aspect, manifest.get("upstream_vocab_size"))
        if template == OWN:
            _write_own_template(source, partial)
        _write_manifest(partial, source, template, config)
        remedy = "download its tokenizer, processor and chat template again"
        with blamed_on(source, "what was written of it cannot be compared with it", remedy):
            verified = _verify(source, partial, config, template, aspect, dtype, device)
    model_type = configs.UPSTREAM_TYPES[config["text_config"].get("model_type", "llama")][0]
    shown = "anyres" if family is configs.Family.LLAVA_NEXT else aspect
    return Imported(str(output), model_type, template, shown, tally, verified, tuple(notes), time.monotonic() - start)


def guess_conversation(source: Path, config: Mapping[str, Any]) -> str:
    """The template that a llava-hf chat template stands for: upstream's, by its role marks, or the model's own."""
    text = own_template_of(source)
    if text and config["text_config"].get("model_type") in OTHER_LANGUAGES:
        return OWN  # before the marks: many write <|im_start|>, each with its own system text
    for mark, name in (
        ("[INST]", "mistral_instruct"),
        ("<|im_start|>", "chatml_direct"),
        ("USER:", "vicuna_v1"),
        ("role'].upper()", "vicuna_v1"),
    ):
        if mark in text:
            return name
    raise UsageError(
        f"{source}: no chat template that tells the conversation; name it: --conversation vicuna_v1 "
        "(LLaVA-1.5, 1.6-vicuna), mistral_instruct (1.6-mistral) or chatml_direct (1.6-34B)"
    )


def own_template_of(source: Path) -> str:
    """The text of a llava-hf folder's chat template, in whichever file it stands; empty without one."""
    from llava_finetune.saved.manifest import read_json

    text = ""
    for name in ("chat_template.jinja", "chat_template.json", "processor_config.json", "tokenizer_config.json"):
        path = source / name
        if path.is_file():
            found = (
                path.read_text(encoding="utf-8", errors="replace")
                if path.suffix == ".jinja"
                else named_template(read_json(path).get("chat_template"), str(path))
            )
            text = text or found
    return text


def _write_own_template(source: Path, out: Path) -> None:
    """The language model's own chat template, for messages of text. Raises UserError for one that takes parts alone."""
    from llava_finetune.convert import tokenizer_files
    from llava_finetune.convert.template import without_pictures
    from llava_finetune.data.own_template import end_of, render

    (out / "chat_template.jinja").write_text(without_pictures(own_template_of(source)), encoding="utf-8")
    tokenizer = tokenizer_files.load_tokenizer(out)
    end_of(tokenizer)
    if "How many?" not in render([{"role": "user", "content": "How many?"}], tokenizer, open_end=True):
        raise UserError(
            f"{source}: the chat template drops a message that is plain text, and trains nothing; copy "
            "chat_template.jinja of the language model that this LLaVA was made of, or name another with --conversation"
        )


def choose_aspect(source: Path, family: Any, asked: str | None) -> tuple[str, list[str]]:
    """Whether pictures are padded or cropped, and a note when the processor and upstream's training part ways."""
    from llava_finetune.convert.configs import Family
    from llava_finetune.convert.processor_files import source_pads

    if family is Family.LLAVA_NEXT:
        return "anyres", []
    pads = source_pads(source)
    if asked is not None:
        return asked, []
    if pads is not None:
        return ("pad" if pads else "square"), []
    return "pad", [
        "the processor here crops pictures to the middle, upstream trained LLaVA-1.5 on padded ones; pad is written "
        "(--image-aspect-ratio square keeps the crop)"
    ]


def _write(source: Path, out: Path, final: Path, config: dict[str, Any], aspect: str, rows: int | None) -> str:
    """Tokenizer, tower, weights and configs; returns the tally's line. `final` is where the tower will stand."""
    from llava_finetune.convert import configs, processor_files, tokenizer_files, weights
    from llava_finetune.saved import tensor_names
    from llava_finetune.saved.manifest import write_json
    from llava_finetune.saved.shards import ShardWriter, weight_files

    def target(name: tensor_names.Name) -> weights.Target:
        return (
            weights.Target("tower", tensor_names.to_clip(name))
            if name.part == "tower"
            else weights.Target("model", tensor_names.to_upstream(name))
        )

    tokenizer_files.import_tokenizer(source, out)
    writers = {"model": ShardWriter(out), "tower": ShardWriter(out / TOWER)}
    tally = weights.Tally()
    files = weight_files(source)
    weights.move_tensors(files, weights.route_with(tensor_names.from_llava_hf, target, source), writers, tally, rows)
    for writer in writers.values():
        writer.finish()
    vision = configs.vision_config(config)
    full = {**config, "architectures": [configs.llava_hf_family(config).model_class]}
    written = {
        tensor_names.to_llava_hf(parsed)
        for parsed in map(_written_name, set().union(*tally.written.values()))
        if parsed
    }
    weights.check_complete(written, weights.expected_names(full), tensor_names.from_llava_hf, source)
    vocabulary = rows or config["text_config"].get("vocab_size", 32064)
    upstream = configs.to_upstream(
        config, vision_tower=str((final / TOWER).resolve()), aspect_ratio=aspect, vocab_size=vocabulary
    )
    write_json(out / "config.json", upstream)
    tower_config = {
        **vision,
        "model_type": "clip_vision_model",
        "architectures": ["CLIPVisionModel"],
        "dtype": upstream["dtype"],
    }
    write_json(out / TOWER / "config.json", tower_config)
    write_json(out / TOWER / "preprocessor_config.json", processor_files.clip_preprocessor(source))
    return tally.line()


def _written_name(name: str) -> Any:
    from llava_finetune.saved import tensor_names

    return tensor_names.from_upstream(name) or tensor_names.from_clip(name)


def _write_manifest(out: Path, source: Path, template: str, config: dict[str, Any]) -> None:
    from llava_finetune.saved.manifest import weights_sha256, write_manifest

    dtype = config.get("dtype") or config.get("torch_dtype") or "float16"
    origin = {"imported_from": str(source), "imported_sha256": weights_sha256(source)}
    write_manifest(out, kind="model", base=None, conversation=template, dtype=str(dtype), **origin)


def _verify(
    source: Path, out: Path, config: dict[str, Any], template: str, aspect: str, dtype: str, device: str
) -> str:
    """Upstream's code on the new folder against transformers' code on the old one."""
    from llava_finetune.convert import parity
    from llava_finetune.model.loading import load

    loaded = load(str(out), dtype=dtype, device=device, vision_tower=str(out / TOWER))
    reference = parity.upstream_reference(loaded, template)
    used_dtype, used_device, own = loaded.dtype, loaded.device, loaded.tokenizer.chat_template
    del loaded
    gc.collect()
    processor = parity.processor_as_trained(source, config, reference, template, pad=aspect == "pad", own_template=own)
    return parity.compare(reference, source, used_dtype, used_device, processor).line()
