"""What measurements on the quickstart's model share: its base as flags, a command as its user runs it, a cell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def base_flags(quickstart: Path) -> tuple[str, ...]:
    """Flags of a training that begins with the tower and the projector of a quickstart's stage 1."""
    return (
        "--vision_tower", str(quickstart / "base/tower"), "--mm_vision_select_layer", "-1",
        "--pretrain_mm_mlp_adapter", str(quickstart / "pretrain/mm_projector.bin"), "--mm_projector_type", "mlp2x_gelu",
        "--mm_use_im_patch_token", "False", "--version", "chatml_direct", "--lora_dropout", "0",
    )  # fmt: skip


def language_model(quickstart: Path) -> str:
    return str(quickstart / "base/language-model")


def easy_vqa_pictures() -> Path:
    """The folder that the quickstart's records name their pictures below."""
    import easy_vqa

    return Path(easy_vqa.__file__).parent / "data"


def run(*command: str, **environment: str) -> None:
    """A command, shown and with its lines on stderr; SystemExit where it fails."""
    print(f"$ {' '.join(command)}", file=sys.stderr, flush=True)
    code = subprocess.run(command, env={**os.environ, **environment}, stdout=sys.stderr).returncode
    if code:
        raise SystemExit(f"{' '.join(command[:3])}: exit {code}")


def read_scores(folder: Path, name: str) -> dict[str, Any]:
    """What `evaluate --name NAME` wrote."""
    scores: dict[str, Any] = json.loads((folder / f"scores-{name}.json").read_text(encoding="utf-8"))
    return scores


def ask(model: Path, data: Path, output: Path, name: str, sample: int, *, max_new_tokens: int = 12) -> dict[str, Any]:
    """A model's scores on a records file's questions about easy-VQA's pictures, `sample` of them."""
    run(
        "llava-finetune", "evaluate", "--model", str(model), "--data", str(data), "--images", str(easy_vqa_pictures()),
        "--output", str(output), "--name", name, "--sample", str(sample), "--batch_size", "64",
        "--max_new_tokens", str(max_new_tokens), "--num_processes", "2",
    )  # fmt: skip
    return read_scores(output, name)


def with_interval(value: float, interval: tuple[float, float] | list[float]) -> str:
    """A share and its interval as a table's cell."""
    return f"{value:.1%} ({interval[0]:.1%} to {interval[1]:.1%})"
