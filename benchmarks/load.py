"""Start-up: `--help` of every command against 0.3 s, what it imports, and loading a model against transformers' own.

    python benchmarks/load.py                                   help only
    python benchmarks/load.py --model runs/quickstart/merged    and loading

Prints a table of medians and writes JSON (--output).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
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
OURS = "from llava_finetune.loading import load; load({model!r})"
PEER = (
    "import torch, llava.model; from transformers import AutoTokenizer, AutoModelForCausalLM as M; "
    "AutoTokenizer.from_pretrained({model!r}); "
    "m = M.from_pretrained({model!r}, dtype=torch.bfloat16); m.get_vision_tower().load_model()"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure. Exit codes: 0 done, 1 a `--help` is over the limit or imports torch, 2 wrong use."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model in upstream's layout, to load")
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
    options.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = options.output.with_suffix(".tmp")
    temporary.write_text(json.dumps({"rows": rows, "runs": runs, "date": time.strftime("%Y-%m-%d")}, indent=1) + "\n")
    temporary.replace(options.output)
    helps = [row for name, row in rows.items() if name.endswith("--help")]
    return int(any(row["cpu"] > LIMIT or row["torch"] for row in helps))


def measure(code: str) -> dict[str, Any]:
    """Run `code` in a fresh interpreter; its seconds, processor seconds, peak memory, and whether it took torch."""
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(code=code)],
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"failed: {code}\n{done.stderr[-1500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])  # type: ignore[no-any-return]


if __name__ == "__main__":
    raise SystemExit(main())
