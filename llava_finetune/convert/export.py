"""`llava-finetune export`: a trained model in llava-hf's layout (transformers, vLLM, SGLang) or as GGUF (llama.cpp).

Why: serving engines read LlavaForConditionalGeneration and LlavaNextForConditionalGeneration. The folder gets a
processor that pads where upstream pads and a chat template that writes what training wrote, and it only appears when
token ids, pixel values and logits agree with transformers' own implementation. `gguf/` writes the other format.

    llava-finetune export runs/merged exported
    llava-finetune export runs/merged gguf --format gguf --type q8_0
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_finetune.convert.command import conversion_parser, report
from llava_finetune.errors import UsageError, UserError

EXAMPLES = """examples:
  llava-finetune merge runs/okvqa merged && llava-finetune export merged exported
  llava-finetune export liuhaotian/llava-v1.5-7b llava-1.5-7b-exported --dtype float16
  llava-finetune export merged gguf --format gguf --type q8_0
  vllm serve exported          (docs/deploy.md: vLLM, SGLang, transformers, llama.cpp and Ollama)

An adapter is merged first. The conversion streams one tensor at a time; the check at the end loads the model once in
each implementation, one after the other.
exit codes: 0 done, 1 refused or failed, 2 wrong use"""

TYPES = ("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m")


@dataclass(frozen=True)
class Exported:
    """What was written and how it was verified."""

    folder: str
    family: str
    conversation: str
    image_token: int
    tensors: str
    verified: str
    seconds: float


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    out = conversion_parser(
        "export",
        "Write a model of upstream's layout in llava-hf's layout, verified against transformers.",
        EXAMPLES,
        model="folder or hub id in upstream's layout (a merged model or a full fine-tune)",
    )
    out.add_argument("--vision-tower", help="the tower's folder, when the one named in config.json is elsewhere")
    out.add_argument("--format", default="llava-hf", choices=("llava-hf", "gguf"), help="layout (default: llava-hf)")
    out.add_argument(
        "--type",
        choices=TYPES,
        help="type of GGUF weights (default: f16); the K-quants need llama.cpp's llama-quantize",
    )
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when the folder was written and verified."""
    a = parser().parse_args(argv)
    if a.type and a.format != "gguf":
        raise UsageError(f"--type {a.type} is of GGUF files; give --format gguf too (for llava-hf, see --dtype)")
    return _gguf(a) if a.format == "gguf" else _llava_hf(a)


def _llava_hf(a: argparse.Namespace) -> int:
    """Run the command with --format llava-hf."""
    result = export(
        a.model, a.output, conversation=a.conversation, vision_tower=a.vision_tower, dtype=a.dtype, device=a.device
    )
    lines = (
        f"{result.folder}: {result.family}, {result.tensors}",
        result.verified,
        f"chat template: {result.conversation}; <image> is token {result.image_token}; {result.seconds:.0f} s",
        f"serve it: vllm serve {result.folder}  (docs/deploy.md)",
    )
    return report(result, lines, as_json=a.json)


def _gguf(a: argparse.Namespace) -> int:
    """Run the command with --format gguf."""
    from llava_finetune.convert.gguf.export import export_gguf

    result = export_gguf(
        a.model, a.output, file_type=a.type or "f16", conversation=a.conversation, vision_tower=a.vision_tower
    )
    lines = (
        f"{result.folder}: {result.model} and {result.mmproj}, {result.bytes / 1e6:,.0f} MB, {result.seconds:.0f} s",
        result.checked,
        *(f"note: {note}" for note in result.notes),
        f"serve it: {result.serve}",
        f"or with Ollama: cd {result.folder} && ollama create mine -f Modelfile",
    )
    return report(result, lines, as_json=a.json)


def export(
    model: str,
    output: Path,
    *,
    conversation: str | None = None,
    vision_tower: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
) -> Exported:
    """Convert, verify, and let the folder appear. Raises UserError, and writes nothing, when anything disagrees."""
    from llava_finetune.convert import configs, parity
    from llava_finetune.model.loading import load
    from llava_finetune.model.towers import tower_config
    from llava_finetune.report.model_card import carry_card
    from llava_finetune.saved import new_folder
    from llava_finetune.saved.folders import find_tower

    start = time.monotonic()
    new_folder.check_free(output)
    source = new_folder.resolve_folder(model)
    config = configs.read_config(source)
    family = configs.upstream_family(config)
    tower = vision_tower or find_tower(config["mm_vision_tower"], (str(source),))
    configs.require_tower_fits(tower_config(tower).to_dict())
    loaded = load(str(source), dtype=dtype, device=device, vision_tower=vision_tower)
    if not config.get("unfreeze_mm_vision_tower"):
        _round_tower(loaded, _stored_dtype(source))
    template = conversation or loaded.template
    reference = parity.upstream_reference(loaded, template)
    described = _describe(source, config, loaded, template)
    used_dtype, used_device = loaded.dtype, loaded.device
    del loaded
    gc.collect()
    with new_folder.new_folder(output) as partial:
        image_token, tally, rows = _write(source, partial, described, template, reference)
        checked = parity.compare(reference, partial, used_dtype, used_device).line()
        _write_manifest(partial, source, template, str(used_dtype), rows, checked)
        carry_card(partial, source, output.name)
    seconds = time.monotonic() - start
    return Exported(str(output), family.model_class, template, image_token, tally, checked, seconds)


def _round_tower(loaded: Any, dtype: Any) -> None:
    """Give a frozen tower the values that it is written with: its own folder may be wider than the model."""
    for parameter in loaded.model.get_vision_tower().parameters():
        parameter.data = parameter.data.to(dtype).to(parameter.dtype)


@dataclass(frozen=True)
class _Described:
    """What the weights alone do not say: config, vision config, picture processing, tower folder, end tokens.

    `chat_template`: the tokenizer's own.
    """

    config: dict[str, Any]
    vision: dict[str, Any]
    image_processor: dict[str, Any]
    tower: Path | None
    stop_ids: list[int]
    chat_template: str | None


def _describe(source: Path, config: dict[str, Any], loaded: Any, template: str) -> _Described:
    """Read off the loaded model what its files leave out; a trained tower is among the weights, a frozen one not."""
    from llava_finetune.convert import tokenizer_files
    from llava_finetune.saved import new_folder

    tower = loaded.model.get_vision_tower()
    is_trained = bool(config.get("unfreeze_mm_vision_tower"))
    return _Described(
        config={**config, "dtype": str(loaded.dtype).removeprefix("torch.")},
        vision=tower.vision_tower.config.to_dict(),
        image_processor=loaded.image_processor.to_dict(),
        tower=None if is_trained else new_folder.resolve_folder(tower.vision_tower_name, beside=source),
        stop_ids=tokenizer_files.stop_token_ids(template, loaded.tokenizer),
        chat_template=loaded.tokenizer.chat_template,
    )


def _write(source: Path, out: Path, described: _Described, template: str, reference: list[Any]) -> tuple[int, str, int]:
    """Everything but the manifest; returns the picture token, the tally's line and the vocabulary's rows before."""
    from llava_finetune.convert import configs, processor_files, styles, tokenizer_files, weights
    from llava_finetune.saved.tensor_names import from_llava_hf

    family = configs.upstream_family(described.config)
    image_token = tokenizer_files.write_tokenizer(source, out, family.processor_class)
    before = _vocabulary_rows(source)
    rows = before if image_token < before else -(-(image_token + 1) // 64) * 64
    tally = _move_weights(source, described.tower, out, rows)
    config = configs.to_llava_hf(described.config, described.vision, image_token=image_token, vocab_size=rows)
    weights.check_complete(tally.written["model"], weights.expected_names(config), from_llava_hf, out)
    pad = described.config.get("image_aspect_ratio") == "pad"
    processor_files.write_processor(out, described.image_processor, config, pad=pad)
    write_configs(out, config, described.stop_ids, tokenizer_files.load_tokenizer(out))
    # Only now: with config.json beside it transformers may read the tokenizer in another way.
    tokenizer = tokenizer_files.load_tokenizer(out)
    tokenizer.chat_template = described.chat_template
    style = styles.choose_style([(r.probe, r.input_ids) for r in reference], tokenizer, template, image_token)
    (out / "chat_template.jinja").write_text(styles.render_template(template, style, tokenizer), encoding="utf-8")
    return image_token, tally.line(), before


def _vocabulary_rows(source: Path) -> int:
    return int(_embedding(source)[0][0])


def _stored_dtype(source: Path) -> Any:
    """The dtype in which the language model lies on disk, which a frozen tower is written in too."""
    return _embedding(source)[1]


def _embedding(source: Path) -> tuple[tuple[int, ...], Any]:
    from llava_finetune.saved.shards import tensor_inventory

    for name, shape, dtype in tensor_inventory(source):
        if name == "model.embed_tokens.weight":
            return shape, dtype
    raise UserError(f"{source}: no model.embed_tokens.weight among the tensors; this is not a whole model")


def _move_weights(source: Path, tower: Path | None, out: Path, rows: int) -> Any:
    """Stream language model, projector and tower into `out`; a frozen tower comes from its own folder."""
    from llava_finetune.convert import weights
    from llava_finetune.saved import tensor_names
    from llava_finetune.saved.shards import ShardWriter, weight_files

    def to_model(name: tensor_names.Name) -> weights.Target | weights.Skip:
        if name.part == "tower" and tower is not None:
            return weights.Skip("tower tensor that upstream reads from the tower's folder")
        return weights.Target("model", tensor_names.to_llava_hf(name))

    def from_tower(name: str) -> weights.Target | weights.Skip:
        parsed = tensor_names.from_clip(name)
        if parsed is None or tensor_names.is_buffer(name):
            return weights.Skip("not read of the tower, or a computed buffer")
        return weights.Target("model", tensor_names.to_llava_hf(parsed))

    writer, tally = ShardWriter(out), weights.Tally()
    weights.move_tensors(
        weight_files(source),
        weights.route_with(tensor_names.from_upstream, to_model, source),
        {"model": writer},
        tally,
        rows,
    )
    if tower is not None:
        weights.move_tensors(weight_files(tower), from_tower, {"model": writer}, tally, dtype=_stored_dtype(source))
    writer.finish()
    return tally


def write_configs(out: Path, config: dict[str, Any], stop_ids: list[int], tokenizer: Any) -> None:
    """config.json and generation_config.json; generation ends at the template's end token too, and is greedy.

    vLLM samples unless a request or this file says otherwise, and reads only `top_k` and its like, never `do_sample`.
    transformers refuses to save a model again whose file has `top_k` without `do_sample`.
    """
    from llava_finetune.saved.manifest import write_json

    config = {**config, "eos_token_id": stop_ids[0], "pad_token_id": tokenizer.pad_token_id}
    write_json(out / "config.json", config)
    generation = {"eos_token_id": stop_ids, "pad_token_id": tokenizer.pad_token_id, "do_sample": True, "top_k": 1}
    if tokenizer.bos_token_id is not None:
        generation["bos_token_id"] = tokenizer.bos_token_id
    write_json(out / "generation_config.json", generation)


def _write_manifest(out: Path, source: Path, template: str, dtype: str, rows: int, verified: str) -> None:
    from llava_finetune.saved.manifest import write_manifest

    write_manifest(
        out,
        kind="llava-hf",
        base=str(source),
        conversation=template,
        dtype=dtype.removeprefix("torch."),
        upstream_vocab_size=rows,
        verified=verified,
    )
