"""Start-up: `--help` of every command against 0.3 s, loading a model, and what a million records cost.

    python benchmarks/load.py                                        help only
    python benchmarks/load.py --model runs/quickstart/merged         and loading, against transformers' own
    python benchmarks/load.py --records 1000,100000,1000000          and training a tiny model on so many records

Prints a table of medians and writes JSON (--output).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 0.3
PROBE = """
import json, resource, sys, time
begin = time.perf_counter()
{code}
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({{"seconds": time.perf_counter() - begin, "cpu": usage.ru_utime + usage.ru_stime,
                   "torch": "torch" in sys.modules, "memory": usage.ru_maxrss * 1024}}))
"""
OURS = "from llava_finetune.model.loading import load; load({model!r})"
PEER = (
    "import torch, llava.model; from transformers import AutoTokenizer, AutoModelForCausalLM as M; "
    "AutoTokenizer.from_pretrained({model!r}); "
    "m = M.from_pretrained({model!r}, dtype=torch.bfloat16); m.get_vision_tower().load_model()"
)
TRAIN = """
import json, pathlib, resource, shutil, sys, time
folder = pathlib.Path({folder!r})
from llava_finetune.config.arguments import parse
from llava_finetune.training import train as script
from transformers import TrainerCallback
flags = ["--model_name_or_path", str(folder / "model"), "--version", "v1", "--data_path", {records!r},
    "--image_folder", str(folder), "--lora_enable", "True", "--lora_r", "8", "--per_device_train_batch_size", "4",
    "--max_steps", "53", "--logging_steps", "53", "--precision", "fp32", "--save_strategy", "no", "--check_data",
    "False", "--dataloader_num_workers", "0", "--output_dir", str(folder / "run"), {flag!r}, {value!r}]
shutil.rmtree(folder / "run", ignore_errors=True)
marks = []
class Marks(TrainerCallback):
    def on_step_begin(self, *_, **__):
        marks.append(time.perf_counter())
made = script.make_loop
def with_marks(*arguments):
    trainer = made(*arguments)
    trainer.add_callback(Marks())
    return trainer
script.make_loop = with_marks
began = time.perf_counter()
script.train(parse(flags))
print(json.dumps({{"first": marks[0] - began, "step": (marks[-1] - marks[3]) / (len(marks) - 4),
    "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}}))
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure. Exit codes: 0 done, 1 a `--help` is over the limit or imports torch, 2 wrong use."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model in upstream's layout, to load")
    parser.add_argument("--records", help="numbers of records, with commas: what a training on so many costs")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--output", type=Path, default=ROOT / "build/benchmarks/load.json")
    options = parser.parse_args(argv)
    quiet = "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
    codes = {"llava-finetune --help": quiet + "    from llava_finetune.cli import main; main(['--help'])"}
    codes["patches --help"] = quiet + "    from patches.cli import main; main(['--help'])"
    if options.model:
        codes["load, ours"] = OURS.format(model=str(options.model))
        codes["load, transformers"] = PEER.format(model=str(options.model))
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in codes}
    for _ in range(options.repetitions):
        for name, code in codes.items():
            runs[name].append(measure(code))
    rows = {
        name: {key: statistics.median(run[key] for run in taken) for key in ("seconds", "cpu", "memory", "torch")}
        for name, taken in runs.items()
    }
    print("| what | clock | CPU, interpreter counted | memory | imports torch |\n|---|---|---|---|---|")
    for name, row in rows.items():
        torch = "yes" if row["torch"] else "no"
        print(f"| {name} | {row['seconds']:.2f} s | {row['cpu']:.2f} s | {row['memory'] / 1e6:.0f} MB | {torch} |")
    print(f"load average {os.getloadavg()[0]:.1f}, {options.repetitions} repetitions")
    trained = train_on([int(number) for number in options.records.split(",")]) if options.records else []
    options.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = options.output.with_suffix(".tmp")
    result = {"rows": rows, "runs": runs, "records": trained, "date": time.strftime("%Y-%m-%d")}
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(options.output)
    helps = [row for name, row in rows.items() if name.endswith("--help")]
    return int(any(row["cpu"] > LIMIT or row["torch"] for row in helps))


def train_on(numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Time to the first step, seconds a step and peak memory of a tiny model's training on files of many records."""
    rows = []
    print("\n| records | file | order | first step after | a step of 4 | peak memory |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make = f"from tests.tiny import *; make_tiny_llava(Path({name!r}) / 'model')"
        os.environ["LLAVA_FINETUNE_CACHE"] = name  # what earlier runs kept is not there
        subprocess.run([sys.executable, "-c", make], cwd=ROOT, env=variables(), check=True, capture_output=True)
        for number in numbers:
            file = write_records(folder, number)
            for order in ("random", "by length", "by length, once more"):
                flag = ("--group_by_modality_length", "True") if order != "random" else ("--seed", "42")
                code = TRAIN.format(folder=name, records=str(file), flag=flag[0], value=flag[1])
                row = {"records": number, "bytes": file.stat().st_size, "order": order, **run(code)}
                rows.append(row)
                print(
                    f"| {number:,} | {row['bytes'] / 1e6:.1f} MB | {order} | {row['first']:.1f} s "
                    f"| {row['step'] * 1000:.0f} ms | {row['memory'] / 1e6:.0f} MB |",
                    flush=True,
                )
            file.unlink()
    return rows


def write_records(folder: Path, number: int) -> Path:
    """A .jsonl of so many records of a question and an answer of 1 to 40 words on 16 small pictures."""
    from PIL import Image

    for index in range(16):
        Image.effect_noise((80, 60), 60 + index).convert("RGB").save(folder / f"{index}.png")
    file = folder / "records.jsonl"
    with file.open("w") as stream:
        for index in range(number):
            turns = [
                {"from": "human", "value": f"<image>\nWhat is number {index} doing in this picture?"},
                {"from": "gpt", "value": "it is red " * (1 + index % 13)},
            ]
            record = {"id": f"record-{index}", "image": f"{index % 16}.png", "conversations": turns}
            stream.write(json.dumps(record) + "\n")
    return file


def variables() -> dict[str, str]:
    """The environment of what is measured."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "TRANSFORMERS_VERBOSITY": "error"}


def measure(code: str) -> dict[str, Any]:
    """Run `code` in a fresh interpreter; its seconds, processor seconds, peak memory, and whether it took torch."""
    return run(PROBE.format(code=code))


def run(code: str) -> dict[str, Any]:
    """What `code` prints as its last line, in a fresh interpreter."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=variables(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"failed: {code}\n{done.stderr[-1500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])  # type: ignore[no-any-return]


if __name__ == "__main__":
    raise SystemExit(main())
