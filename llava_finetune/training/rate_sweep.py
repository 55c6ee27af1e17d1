"""Which learning rate: short trainings that differ in it alone, and their loss on held-out records with intervals.

Started by `llava-finetune plan --learning-rate`; what follows `--` is the training that is planned, with its held-out
data, as `llava-finetune train` takes it:

    llava-finetune plan --learning-rate --minutes 30 -- --model_name_or_path MODEL --data_path train.json \
        --image_folder pictures --eval_data_path val.json --lora_enable True

Every run trains the same number of steps from the same seed, with a whole schedule of its own, and is thrown away.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.numbers import real, whole
from llava_finetune.config.ranges import RANGES
from llava_finetune.errors import UsageError, UserError
from llava_finetune.evaluation.intervals import bootstrap, paired_bootstrap
from llava_finetune.flags import command_parser
from llava_finetune.parent import bound_to_this

RATES = (2e-4, 5e-5, 8e-4, 1e-4, 4e-4)
"""LoRA's usual rate first, then what brackets it: the first that fit into the time tell the most."""
SURE = 0.05
NOT_TRIED = "not tried, a run takes "
TOO_LATE = "the time ended in the middle of its run"


@dataclass(frozen=True)
class Tried:
    """One rate: the held-out loss of each record after the short run, in the records' order, and its seconds."""

    rate: float
    losses: Sequence[float]
    seconds: float

    @property
    def mean(self) -> float:
        """The mean loss over records."""
        return sum(self.losses) / len(self.losses)


Train = Callable[[Sequence[str], float], str]
"""Train with these flags within so many seconds; returns why it did not end well, else an empty text."""


def main(argv: Sequence[str] | None = None, train: Train | None = None) -> int:
    """Try the rates and say which is best, and how sure that is. Exit codes: 0 said, 1 nothing could be said, 2 use."""
    words = list(sys.argv[1:] if argv is None else argv)
    place = words.index("--") if "--" in words else len(words)
    options, flags = parser().parse_args(words[:place]), words[place + 1 :]
    for needed in ("--model_name_or_path", "--data_path", "--eval_data_path"):
        if needed not in [word.partition("=")[0] for word in flags]:
            raise UsageError(f"--learning-rate needs the training behind --, and in it {needed}")
    rates = list(dict.fromkeys(options.rates))
    if len(rates) < 2:
        raise UsageError(f"--rates {rates[0]:g}: one rate is compared to nothing; give two or more")
    folder = Path(tempfile.mkdtemp(prefix="rates-"))
    try:
        tried, problems = sweep(rates, flags, options.steps, 60 * options.minutes, folder, train or start)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for problem in problems:
        print(f"  {problem}")
    if len(tried) < 2:
        is_short = any(TOO_LATE in problem or NOT_TRIED in problem for problem in problems)
        remedy = "give more --minutes, or fewer --steps" if is_short else "why is said above; give other --rates"
        raise UserError(f"{len(tried)} of {len(rates)} rates ended well in {options.minutes:g} minutes; {remedy}")
    for line in verdict(tried, options.steps):
        print(line)
    return 0


def parser() -> argparse.ArgumentParser:
    """The options before `--`."""
    out = command_parser("plan --learning-rate", __doc__)
    out.add_argument("--minutes", type=real(0, above=True), default=30.0, help="time for all runs together; default 30")
    out.add_argument("--steps", type=whole(4), default=40, help="steps of each run; default 40")
    out.add_argument(
        "--rates",
        type=real(*RANGES["learning_rate"][:2], above=True),
        nargs="+",
        default=list(RATES),
        help="rates to try, in this order",
    )
    return out


def sweep(
    rates: Sequence[float], flags: Sequence[str], steps: int, seconds: float, folder: Path, train: Train
) -> tuple[list[Tried], list[str]]:
    """Try the rates one after another while the time lasts. Returns those that ended, and why others did not."""
    tried: list[Tried] = []
    problems: list[str] = []
    begun = time.monotonic()
    for number, rate in enumerate(rates, 1):
        left = seconds - (time.monotonic() - begun)
        longest = max((one.seconds for one in tried), default=0.0)
        if left <= longest:
            problems.append(f"{rate:g}: {NOT_TRIED}{longest:.0f} s and {max(left, 0):.0f} s are left")
            continue
        output, start_of_run = folder / str(number), time.monotonic()
        problem = train([*flags, *_own_flags(rate, steps, output)], left)
        spent = time.monotonic() - start_of_run
        losses = [] if problem else _losses(output / f"predictions-eval-{steps}.jsonl")
        shutil.rmtree(output, ignore_errors=True)
        if problem:
            problems.append(f"{rate:g}: {problem}")
            continue
        if not all(map(math.isfinite, losses)):
            odd = sum(not math.isfinite(loss) for loss in losses)
            problems.append(f"{rate:g}: the held-out loss of {odd} of {len(losses)} records is not finite; too large")
            continue
        tried.append(Tried(rate, losses, spent))
        print(f"  {rate:<8g} held-out loss {tried[-1].mean:.4f} after {steps} steps, {spent:.0f} s", flush=True)
    return tried, problems


def verdict(tried: Sequence[Tried], steps: int) -> list[str]:
    """The table with intervals, which rate is proposed, and how sure that is."""
    best = min(tried, key=lambda one: one.mean)
    lines, close = [], [best]
    for one in sorted(tried, key=lambda one: one.rate):
        low, high = bootstrap(one.losses)
        test = paired_bootstrap(best.losses, one.losses)
        text = f"{one.rate:<8g} loss {one.mean:.4f} (95 % interval {low:.4f} to {high:.4f})"
        if one is not best:
            text += f", {test.difference:+.4f} against the best ({test.interval[0]:+.4f} to {test.interval[1]:+.4f})"
            close += [one] if test.p_value >= SURE else []
        lines.append(text)
    chosen = min(close, key=lambda one: one.rate)
    rates = sorted(one.rate for one in tried)
    if len(close) == 1:
        sure = "it is better than every other that was tried by more than luck in the held-out records"
    else:
        others = ", ".join(f"{one.rate:g}" for one in sorted(close, key=lambda one: one.rate) if one is not chosen)
        sure = f"{others} cannot be told apart from it on {len(best.losses)} records; the smallest of them is proposed"
    edge = ""
    if chosen.rate in (rates[0], rates[-1]) and len(close) == 1:
        end = "smallest" if chosen.rate == rates[0] else "largest"
        edge = f"; it is the {end} that was tried: try beyond it (--rates)"
    return [
        *lines,
        f"--learning_rate {chosen.rate:g}: {sure}{edge}",
        f"{steps} steps say little of what {10 * steps} do; a longer run rather takes a smaller rate than a larger",
    ]


def start(flags: Sequence[str], seconds: float) -> str:
    """Train in a process of its own, its words kept back."""
    command = [sys.executable, "-m", "llava_finetune", "train", *flags]
    try:
        done = subprocess.run(
            command, env=bound_to_this(os.environ), capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return TOO_LATE
    if done.returncode == 2:
        raise UsageError(done.stderr.strip().removeprefix("error: ") or "the training behind -- was refused")
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1] if done.returncode else ""


def _own_flags(rate: float, steps: int, output: Path) -> list[str]:
    given = {
        "--learning_rate": rate, "--max_steps": steps, "--output_dir": output, "--eval_steps": steps,
        "--save_strategy": "no", "--report_to": "none", "--resume": "none", "--eval_max_new_tokens": 1,
    }  # fmt: skip
    return [str(word) for pair in given.items() for word in pair]


def _losses(path: Path) -> list[float]:
    """The loss of each record of an evaluation, by the order of their first question."""
    if not path.is_file():
        raise UserError(f"{path.name}: the run wrote no evaluation of its last step; is --eval_data_path given?")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return list({row["id"]: float(row["loss"]) for row in rows}.values())


if __name__ == "__main__":
    from llava_finetune.cli import run_command

    raise SystemExit(run_command("llava_finetune.training.rate_sweep", sys.argv[1:]))
