"""benchmarks/memory.py runs as it would on a GPU: random weights from configs, a training, a line beside the plan."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow(seconds=60)
def test_the_benchmark_measures_a_training_and_names_the_gap(root: Path, tmp_path: Path) -> None:
    language = {
        "model_type": "llava_llama", "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 1000, "mm_projector_type": "mlp2x_gelu",
        "image_aspect_ratio": "pad",
    }  # fmt: skip
    vision = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "image_size": 56, "patch_size": 14,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(language))
    (tmp_path / "tower.json").write_text(json.dumps(vision))
    files = ["--config", str(tmp_path / "config.json"), "--tower", str(tmp_path / "tower.json")]
    command = [sys.executable, str(root / "benchmarks" / "memory.py"), *files, "--work", str(tmp_path), "--batch", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert "lora, batch 4, checkpointing True: measured 0.0" in done.stdout, done.stdout + done.stderr
    assert "on the CPU (tensors alive)" in done.stdout
    assert done.returncode == 0, done.stdout
