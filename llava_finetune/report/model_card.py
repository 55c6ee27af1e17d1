"""A model card in the hub's format, README.md beside a saved model: what it is, what it scores, how to load it.

Everything in it comes from `llava_finetune.json` beside the weights and from the run folder; what is not known is not
said.

    write_model_card(Path("runs/mine"))                              # the adapter lies in the run folder
    write_model_card(Path("models/merged"), Path("runs/mine"))       # a merged model, with the scores of its run
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.files import write_text
from llava_finetune.evaluation.metrics import TYPES
from llava_finetune.report.engines import engines_markdown
from llava_finetune.report.numbers import bare_percent, interval
from llava_finetune.report.run_folder import CERTIFICATE, Evaluation, Run, is_number, read_run
from llava_finetune.saved.documents import read_document
from llava_finetune.saved.manifest import NAME as MANIFEST
from llava_finetune.saved.manifest import weights_sha256

MARK = "<!-- written by llava-finetune; replaced when the model is saved again -->"
# peft leaves a template of its own beside adapters.
TEMPLATE = "[More Information Needed]"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
LICENSE = re.compile(r"^license:\s*(\S+)", re.MULTILINE)
CONVERTED = {"llava-hf": "a whole model in the layout of transformers and vLLM", "gguf": "GGUF files for llama.cpp"}
OWN = ("kind", "dtype", "model", "mmproj", "conversation")
KINDS = {
    "adapter": "a LoRA adapter with its projector",
    "model": "a whole model",
    "projector": "a projector",
    **CONVERTED,
}
METRICS = {"exact_match": "Exact match", "vqa_accuracy": "VQA accuracy", "token_f1": "Token F1", "bleu": "BLEU"}


def carry_card(folder: Path, source: Path, name: str | None = None) -> None:
    """Give `folder`, made of the model `source`, that one's certificate, and a card with the scores of its run."""
    saved = _json(source / MANIFEST)
    trained = Path(str(saved.get("merged_from")))
    is_its = "merged_from" in saved and trained.is_dir() and weights_sha256(trained) == saved.get("merged_sha256")
    run = trained if is_its else source
    certificate = next((path for place in (source, run) if (path := place / CERTIFICATE).is_file()), None)
    if certificate:
        shutil.copyfile(certificate, folder / CERTIFICATE)
    write_model_card(folder, run, name)


def write_model_card(model: Path, run: Path | None = None, name: str | None = None) -> Path | None:
    """Write README.md into a model's folder; `run` is the folder with its scores, by default the model's own.

    `name`: the folder's, where it has not got it yet. Returns the card's path, or None where the folder has a README.md
    that somebody else wrote: that one is kept.
    """
    path = model / "README.md"
    if path.exists() and not (path.is_file() and _is_ours(path.read_text(encoding="utf-8", errors="replace"))):
        return None
    write_text(path, model_card(model, read_run(run or model), name))
    return path


def model_card(model: Path, run: Run, name: str | None = None) -> str:
    """Return the card's text; `name` of the model: by default its folder's."""
    name = name or model.resolve().name
    saved = _json(model / MANIFEST)
    if saved.get("kind") in CONVERTED:  # its base is the model that it was converted from, which has one of its own
        saved = _json(Path(str(saved.get("base"))) / MANIFEST) | {key: saved[key] for key in OWN if key in saved}
    parts = [
        _front_matter(name, saved, run),
        MARK,
        f"\n# {name}\n",
        _what(saved, run),
        _scores(run),
        engines_markdown(run.certificate or _json(model / CERTIFICATE)),
        _data(run),
        _loading(name, saved),
        _training(run, saved),
        _license(saved),
    ]
    return "\n".join(part for part in parts if part)


def _front_matter(name: str, saved: Mapping[str, Any], run: Run) -> str:
    base = saved.get("base")
    lines = ["---", f"license: {_license_id(base) or 'other'}"]
    if isinstance(base, str) and HUB_ID.fullmatch(base) and not Path(base).exists():
        lines.append(f"base_model: {base}")
    lines.append(f"library_name: {'peft' if saved.get('kind') == 'adapter' else 'transformers'}")
    lines += ["pipeline_tag: image-text-to-text", "tags:", "- llava", "- llava-finetune"]
    if saved.get("kind") == "adapter":
        lines.append("- lora")
    final = run.evaluations.get("final")
    if final:
        lines += _model_index(name, final, run)
    return "\n".join([*lines, "---"])


def _model_index(name: str, final: Evaluation, run: Run) -> list[str]:
    data = run.argument("eval_data_path")
    dataset = Path(data).stem if isinstance(data, str) else "held-out questions"
    lines = [
        "model-index:", f"- name: {json.dumps(name)}", "  results:", "  - task:",
        "      type: visual-question-answering",
        "    dataset:", f"      name: {json.dumps(dataset)}", f"      type: {json.dumps(dataset)}", "    metrics:",
    ]  # fmt: skip
    for key, title in METRICS.items():
        if is_number(final.scores.get(key)):
            lines += [f"    - type: {key}", f"      name: {title}", f"      value: {round(100 * final.scores[key], 2)}"]
    return lines


def _what(saved: Mapping[str, Any], run: Run) -> str:
    kind = KINDS.get(str(saved.get("kind")), "a model")
    base = saved.get("base") or run.argument("model_name_or_path")
    # A path of somebody's machine says nothing to others; its last part may.
    base = Path(base).name if isinstance(base, str) and Path(base).is_absolute() else base
    text = f"{kind[0].upper()}{kind[1:]} of the LLaVA family, fine-tuned with llava-finetune"
    return f"{text} from `{base}`.\n" if base else f"{text}.\n"


def _scores(run: Run) -> str:
    names = [name for name in ("baseline", "text_prior", "blind", "shuffled", "final") if name in run.evaluations]
    if not names:
        return "## Scores\n\nThis model has not been evaluated: `llava-finetune evaluate` does it.\n"
    chosen = [run.evaluations[name] for name in names]
    types = [name for name in TYPES if any(name in one.scores.get("by_type", {}) for one in chosen)]
    types = types if len(types) > 1 else []
    head = ["", "Exact match, all", *(f"{name.replace('_', '/')} questions" for name in types)]
    lines = ["## Scores", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for one in chosen:
        groups = [one.scores, *(one.scores.get("by_type", {}).get(name) for name in types)]
        lines.append(f"| {one.label} | {' | '.join(_cell(group) for group in groups)} |")
    final = chosen[-1].scores
    pictures = f" about {final['num_images']:,} held-out pictures" if final.get("num_images") else ""
    lines += [
        "",
        f"Percent on {final.get('count', 0):,} questions{pictures}, with 95 % intervals. The text-only prior answers "
        "every question without its picture by the commonest training answer; blind is this model with the pictures "
        "withheld.",
        "",
    ]
    return "\n".join(lines)


def _cell(scores: Mapping[str, Any] | None) -> str:
    if not scores or not is_number(scores.get("exact_match")):
        return ""
    bounds = scores.get("interval")
    return f"{bare_percent(scores['exact_match'])}{f' ({interval(bounds)})' if bounds else ''}"


def _data(run: Run) -> str:
    facts = []
    if isinstance(run.argument("data_path"), str):
        facts.append(f"- records: `{Path(run.argument('data_path')).name}`")
    if is_number(run.argument("num_records")):
        facts.append(f"- number of records: {run.argument('num_records'):,}")
    if run.argument("data_sha256"):
        facts.append(f"- SHA-256 of the records file: `{run.argument('data_sha256')}`")
    return "\n".join(["## Training data", "", *facts, ""]) if facts else ""


def _loading(name: str, saved: Mapping[str, Any]) -> str:
    if saved.get("kind") == "gguf":
        line = f"llama-server -m {name}/{saved.get('model')} --mmproj {name}/{saved.get('mmproj')} --jinja --temp 0"
        return f"## How to load it\n\n```bash\n{line}\n```\n"
    if saved.get("kind") == "llava-hf":
        return (
            f"## How to load it\n\n```bash\nvllm serve {name}\n```\n\n```python\nfrom transformers import pipeline\n\n"
            f'pipe = pipeline("image-text-to-text", model={json.dumps(name)})\n```\n'
        )
    merge = (
        f"llava-finetune merge --help    # make one folder of {name} and its base\n"
        if saved.get("kind") == "adapter"
        else ""
    )
    return (
        "## How to load it\n\n```bash\n"
        f"llava-finetune chat --model {name}\n"
        f"llava-finetune evaluate --model {name} --data questions.json --images pictures\n{merge}```\n\n"
        "```python\nfrom llava_finetune.model.loading import load\n\n"
        f"loaded = load({json.dumps(name)})  # tokenizer, model, image_processor, template\n```\n\n"
        "The folder has upstream's layout, so LLaVA's own `load_pretrained_model` reads it too; "
        "`llava-finetune export` writes the layout of transformers, vLLM and SGLang.\n"
    )


def _training(run: Run, saved: Mapping[str, Any]) -> str:
    names = {
        "lora_r": "LoRA rank", "lora_alpha": "LoRA alpha", "learning_rate": "learning rate",
        "mm_projector_lr": "projector's rate",
        "num_train_epochs": "epochs", "per_device_train_batch_size": "batch per device",
        "gradient_accumulation_steps": "gradient accumulation", "seed": "seed",
    }  # fmt: skip
    facts = [f"- {title}: {run.argument(key)}" for key, title in names.items() if run.argument(key) is not None]
    facts += [
        f"- {title}: `{value}`"
        for title, value in (
            ("conversation template", saved.get("conversation") or run.argument("conversation")),
            ("dtype", saved.get("dtype")),
            ("upstream commit", saved.get("upstream_commit") or run.argument("upstream_commit")),
            ("patch series", saved.get("series") or run.argument("series")),
            ("SHA-256 of the base's weights", saved.get("base_sha256")),
        )
        if value
    ]
    return "\n".join(["## Training", "", *facts, ""]) if facts else ""


def _license(saved: Mapping[str, Any]) -> str:
    base = saved.get("base")
    known = _license_id(base)
    of_base = f"The base model says `{known}`." if known else "Look up the licence of the base model."
    return (
        "## Licence\n\n"
        f"{of_base} It holds for this model too, and so may the terms of the training data and pictures: check both "
        "before you share it. LLaVA's code is Apache-2.0.\n"
    )


def _license_id(base: Any) -> str | None:
    if not isinstance(base, str) or not (Path(base) / "README.md").is_file():
        return None
    found = LICENSE.search((Path(base) / "README.md").read_text(encoding="utf-8", errors="replace"))
    return found.group(1) if found else None


def _is_ours(text: str) -> bool:
    return MARK in text or TEMPLATE in text or not text.strip()


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    value = read_document(path)
    return value if isinstance(value, dict) else {}
