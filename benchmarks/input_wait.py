"""How long a step waits for its data: on the quickstart's pictures and on photographs of 1000 x 1000 pixels.

Each run is ours with `--profile`, in a process of its own, on the quickstart's model; `data` of its profile is what the
step waited for its next batch. The last number of workers is what `llava-finetune plan` proposes for this machine.

    python benchmarks/input_wait.py
    python benchmarks/input_wait.py --size 7b --batch 16 --tower FOLDER/clip-vit-large-patch14-336    on a GPU

Prints a table and writes JSON (--output).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train import ROOT, SIZES, environment, make_start, processor

LIMIT = 0.03
SIDE = 1000
NUM_PHOTOGRAPHS = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Measure. Exit codes: 0 done, 1 the wait is over the limit with the proposed workers, 2 wrong use."""
    options = parse(argv)
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "start" / "llava_finetune.json").is_file():
        print("building the model that every run starts from")
        make_start(options, work / "start")
    from llava_finetune.planning.proposals import workers

    wanted = sorted({0, workers(1)})
    rows = []
    for name, records, folder in [quickstart(options), photographs(work, options.batch * (options.steps + 3))]:
        for number in wanted:
            facts = profile(options, work, records, folder, number)
            waited = facts["phases"]["data"]
            rows.append({"pictures": name, "workers": number, "step": facts["seconds_per_step"], "data": waited})
            print(f"{name}, {number} workers: {waited:.3f} s of {facts['seconds_per_step']:.3f} s", flush=True)
    print(table(rows))
    result = {"rows": rows, "processor": processor(), "cores": os.cpu_count(), "date": time.strftime("%Y-%m-%d")}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = options.output.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(options.output)
    proposed = [row for row in rows if row["workers"] == wanted[-1]]
    return int(any(row["data"] > LIMIT * row["step"] for row in proposed))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "runs/quickstart/base/language-model")
    parser.add_argument("--tower", type=Path, default=ROOT / "runs/quickstart/base/tower")
    parser.add_argument("--records", type=Path, default=ROOT / "runs/quickstart/data/train.json")
    parser.add_argument("--size", choices=sorted(SIZES), help="random weights of this shape instead of --model")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6, help="profiled steps, after two to warm up")
    parser.add_argument("--work", type=Path, default=ROOT / "build/benchmarks/input")
    parser.add_argument("--output", type=Path, default=ROOT / "build/benchmarks/input.json")
    return parser.parse_args(argv)


def quickstart(options: argparse.Namespace) -> tuple[str, Path, Path]:
    """The quickstart's records and pictures."""
    import easy_vqa

    return "quickstart, 64 x 64 PNG", options.records, Path(easy_vqa.__file__).parent / "data"


def photographs(work: Path, number: int) -> tuple[str, Path, Path]:
    """Records on JPEGs with the detail of photographs, in quality 90."""
    from PIL import Image, ImageFilter

    folder = work / "photographs"
    folder.mkdir(exist_ok=True)
    for index in range(NUM_PHOTOGRAPHS):
        file = folder / f"{index}.jpg"
        if not file.is_file():
            bands = [Image.effect_noise((SIDE, SIDE), 80).filter(ImageFilter.GaussianBlur(2)) for _ in range(3)]
            Image.merge("RGB", bands).save(file, quality=90)
    turns = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "noise"}]
    rows = [
        {"id": str(index), "image": f"{index % NUM_PHOTOGRAPHS}.jpg", "conversations": turns} for index in range(number)
    ]
    (work / "photographs.json").write_text(json.dumps(rows))
    return f"{SIDE} x {SIDE} JPEG", work / "photographs.json", folder


def profile(options: argparse.Namespace, work: Path, records: Path, folder: Path, workers: int) -> dict[str, Any]:
    """The profile of one run."""
    output = work / "run"
    shutil.rmtree(output, ignore_errors=True)
    flags = (
        f"--model_name_or_path {work / 'start'} --vision_tower {options.tower.resolve()} --data_path {records} "
        f"--image_folder {folder} --lora_enable True --lora_r 128 --lora_alpha 256 --bf16 True --check_data False "
        f"--per_device_train_batch_size {options.batch} --max_steps {options.steps + 3} --save_strategy no "
        f"--dataloader_num_workers {workers} --profile {options.steps} --output_dir {output}"
    )
    python, variables = environment("ours")
    command = [python, "-m", "llava_finetune", "train", *flags.split()]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"failed: {done.stderr.strip()[-1500:]}")
    facts: dict[str, Any] = json.loads((output / "profile.json").read_text())
    return facts


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = ["| pictures | workers | step | waits for data | share |", "|---" * 5 + "|"]
    for row in rows:
        share = row["data"] / row["step"]
        lines.append(
            f"| {row['pictures']} | {row['workers']} | {row['step']:.3f} s | {row['data']:.4f} s | {share:.2%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
