"""benchmarks/train.py makes the model that every trainer starts from."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.train import make_start
from llava_finetune.saved.manifest import read_manifest
from tests.tiny import make_tiny_clip, make_tiny_language_model
from tests.warm import fork, wait_for


def test_a_start_of_two_parts_is_made(data: Path, tmp_path: Path) -> None:
    options = argparse.Namespace(
        size=None,
        records=data / "train.json",
        model=make_tiny_language_model(tmp_path / "language", tokenizer="bytes"),
        tower=make_tiny_clip(tmp_path / "tower"),
    )
    said = tmp_path / "said.txt"
    with said.open("w") as file:
        code = wait_for(fork(lambda: make_start(options, tmp_path / "start"), [file.fileno(), file.fileno()]), 120)
    assert code == 0, said.read_text()
    manifest = read_manifest(tmp_path / "start")
    assert manifest is not None and manifest["dtype"] == "bfloat16"
    assert json.loads((tmp_path / "start/config.json").read_text())["mm_projector_type"] == "mlp2x_gelu"
