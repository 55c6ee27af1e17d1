"""Trainings killed at random moments, each resumed and compared bit for bit with the run that was not interrupted.

    python benchmarks/chaos.py                                # 200 kills: twenty minutes to an hour on two cores
    python benchmarks/chaos.py --kills 12 --ways LoRA "two processes"
    python benchmarks/chaos.py --docs                         # writes its table into docs/reliability.md
    python benchmarks/chaos.py --docs --add --seed 2          # adds its kills, at other moments, to that table

The trainings are tiny (eight steps, a checkpoint every second one) and whole: command line, data, model, checkpoints,
result. Each is killed from outside by SIGKILL at a random moment between its start and its end; of several processes
one, or all at once as when a machine is lost. It is resumed with --resume auto. What must be the same, to the bit:
every logged loss, gradient norm and learning rate, and every tensor of the result.

Exit codes: 0 every resumed run was the same, 1 one was not, or did not end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

LORA = "--lora_enable True --lora_r 8 --lora_alpha 16 --lora_dropout 0.1"
WAYS = {
    "LoRA": (1, LORA),
    "full": (1, ""),
    "tower": (1, f"{LORA} --tune_vision_tower True --vision_tower_lr 1e-3"),
    "grouping by length": (1, f"{LORA} --group_by_modality_length True --gradient_accumulation_steps 2"),
    "two processes": (2, LORA),
    "ZeRO-2, two processes": (2, f"{LORA} --deepspeed {ROOT / 'deepspeed_configs' / 'zero2.json'}"),
}
"""Processes and flags."""
STEPS = 8
COMMON = (
    f"--precision fp32 --learning_rate 2e-3 --per_device_train_batch_size 2 --save_steps 2 --max_steps {STEPS} "
    "--seed 7 --gradient_checkpointing False --dataloader_num_workers 0 --version v1 --check_data False "
    "--logging_steps 1"
)
MARKS = ("<!-- chaos: written by python benchmarks/chaos.py --docs -->\n", "<!-- end of chaos -->")


@dataclass
class Tally:
    """What became of the kills of one way to train."""

    kills: int = 0
    at_a_save: int = 0
    before_a_checkpoint: int = 0
    same: int = 0
    others: list[str] = field(default_factory=list)


def make_inputs(folder: Path) -> None:
    """A tiny LLaVA and ten records, two of them without a picture."""
    from PIL import Image

    from tests.tiny import make_tiny_llava

    make_tiny_llava(folder / "model")
    rows = []
    for index in range(10):
        turns = [{"from": "human", "value": "what" + " very" * index}, {"from": "gpt", "value": f"it is {index}"}]
        rows.append({"id": str(index), "conversations": turns})
        if index < 8:
            Image.new("RGB", (56, 40 + 4 * index), (30 * index, 90, 200)).save(folder / f"{index}.png")
            turns[0]["value"] = f"<image>\n{turns[0]['value']}"
            rows[-1]["image"] = f"{index}.png"
    (folder / "train.json").write_text(json.dumps(rows))


def flags(way: str, folder: Path, output: Path, more: str = "") -> list[str]:
    """The command line of a way to train."""
    where = f"--model_name_or_path {folder / 'model'} --data_path {folder / 'train.json'} --image_folder {folder}"
    return f"{where} --output_dir {output} {COMMON} {WAYS[way][1]} {more}".split()


def num_logged(output: Path) -> int:
    """Rows of a run's log so far: its steps."""
    log = output / "log.jsonl"
    return log.read_bytes().count(b'"loss"') if log.is_file() else 0


def kill_once(way: str, folder: Path, output: Path, pace: float, pick: random.Random) -> str | None:
    """Start a run and kill it at a random moment. Returns what was there then, None where it had ended before."""
    from tests.training.forked import start

    run = start(flags(way, folder, output), output.parent / "out", WAYS[way][0])
    step, moment = pick.randrange(STEPS), pick.uniform(0, pace)
    victims = run.pids if pick.random() < 0.5 else [pick.choice(run.pids)]
    while num_logged(output) < step and all(os.waitid(os.P_PID, pid, LOOK) is None for pid in run.pids):
        time.sleep(0.002)
    time.sleep(moment)
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    is_saving = any((output / ".saving").glob("*")) if output.is_dir() else False
    code = run.wait()
    if code == 0:
        return None
    assert code == -signal.SIGKILL or len(run.pids) > 1, run.text
    return "save" if is_saving else "start" if not any(output.glob("checkpoint-*")) else "step"


LOOK = os.WEXITED | os.WNOHANG | os.WNOWAIT


def resumed(way: str, folder: Path, output: Path, usual: Path) -> str | None:
    """Resume a killed run and compare; None where it is the same run."""
    from llava_finetune.saved.checkpoints import fault_of
    from tests.training.conftest import assert_same_run
    from tests.training.forked import train

    for checkpoint in output.glob("checkpoint-*"):
        if fault := fault_of(checkpoint, contents=True):
            return f"{checkpoint.name}: {fault}"
    code, text = train(flags(way, folder, output, "--resume auto"), output.parent / "out", WAYS[way][0])
    if code:
        return f"the resumed run ended with {code}: {text.strip().splitlines()[-1:]}"
    try:
        assert_same_run(usual, output)
    except AssertionError as error:
        return f"another run: {str(error)[:200]}"
    left = [path.name for path in output.iterdir() if path.name.startswith((".saving", ".deleting", ".run.lock"))]
    return f"left {left}" if left else None


@dataclass
class Way:
    """A way to train: its uninterrupted run, the seconds of half a step, and what became of its kills."""

    name: str
    usual: Path
    pace: float
    tally: Tally = field(default_factory=Tally)


def begin(name: str, folder: Path) -> Way:
    """Train once without a kill."""
    from tests.training.forked import train

    usual, begun = folder / "usual" / re.sub(r"\W+", "-", name), time.monotonic()
    code, text = train(flags(name, folder, usual), folder / "usual" / "out", WAYS[name][0])
    assert code == 0, text
    return Way(name, usual, (time.monotonic() - begun) / STEPS / 2)


def kill_and_compare(way: Way, folder: Path, pick: random.Random) -> None:
    """One kill, at another moment where the run had ended before."""
    work, found, tally = Path(tempfile.mkdtemp(dir=folder)), None, way.tally
    while not found:
        shutil.rmtree(work / "run", ignore_errors=True)
        found = kill_once(way.name, folder, work / "run", way.pace, pick)
    tally.kills += 1
    tally.at_a_save += found == "save"
    tally.before_a_checkpoint += found == "start"
    fault = resumed(way.name, folder, work / "run", way.usual)
    tally.same += fault is None
    if fault:
        tally.others.append(fault)
        print(f"{way.name}, kill {tally.kills}: {fault}", flush=True)
    shutil.rmtree(work)


def table(tallies: dict[str, Tally]) -> Iterator[str]:
    """The tallies as Markdown."""
    yield "| Training | Kills | during a save | before a checkpoint | resumed run the same, bit for bit |"
    yield "|---|---|---|---|---|"
    total = Tally()
    for way, one in tallies.items():
        yield f"| {way} | {one.kills} | {one.at_a_save} | {one.before_a_checkpoint} | {one.same} |"
        for name in ("kills", "at_a_save", "before_a_checkpoint", "same"):
            setattr(total, name, getattr(total, name) + getattr(one, name))
    yield f"| all | {total.kills} | {total.at_a_save} | {total.before_a_checkpoint} | {total.same} |"


def add_docs(ways: Sequence[Way]) -> None:
    """Begin each way's tally with its row of the table in docs/reliability.md."""
    rows = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8").split(MARKS[0])[1].split(MARKS[1])[0]
    found = {cells[1]: cells[2:6] for row in rows.splitlines() if (cells := [cell.strip() for cell in row.split("|")])}
    for way in ways:
        way.tally = Tally(*map(int, found.get(way.name, ())))


def write_docs(lines: Sequence[str]) -> None:
    """Put the table between its marks in docs/reliability.md."""
    page = ROOT / "docs" / "reliability.md"
    before, rest = page.read_text(encoding="utf-8").split(MARKS[0])
    after = rest.split(MARKS[1], 1)[1]
    page.write_text("".join([before, MARKS[0], "\n".join(lines), "\n", MARKS[1], after]), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Kill, resume, compare; 0 when every resumed run was the same."""
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--kills", type=int, default=200, help="in all, shared among the ways (default: 200)")
    out.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="how is trained (default: all)")
    out.add_argument("--seed", type=int, default=1, help="of the moments")
    out.add_argument("--minutes", type=float, default=600, help="stop after so many (default: 600)")
    out.add_argument("--add", action="store_true", help="to the kills in docs/reliability.md; give another --seed")
    out.add_argument("--docs", action="store_true", help="write the table into docs/reliability.md")
    a = out.parse_args(argv)
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", DS_ACCELERATOR="cpu")
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix) / "torch_extensions"))
    import llava_finetune.training.train
    import llava_finetune.training.trainer  # noqa: F401
    from tests.warm import build_operators, warm_up

    warm_up()
    build_operators()
    pick, end = random.Random(a.seed), time.monotonic() + a.minutes * 60
    with tempfile.TemporaryDirectory() as folder:
        make_inputs(Path(folder))
        ways = [begin(name, Path(folder)) for name in a.ways]
        if a.add:
            add_docs(ways)
        for number in range(a.kills):
            if time.monotonic() > end:
                print(f"{number} of {a.kills} kills in {a.minutes:g} minutes", flush=True)
                break
            kill_and_compare(ways[number % len(ways)], Path(folder), pick)
            if number % 20 == 19:
                print("\n".join(table({way.name: way.tally for way in ways})), flush=True)
    tallies = {way.name: way.tally for way in ways}
    lines = list(table(tallies))
    print("\n".join(lines))
    if a.docs:
        write_docs(lines)
    return int(any(one.others for one in tallies.values()))


if __name__ == "__main__":
    raise SystemExit(main())
