"""Small data trains by default: the launchers' batch and epochs follow the number of records, and every part moves."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llava_finetune.config.arguments import parse
from llava_finetune.errors import UsageError, UserError
from llava_finetune.launching import batches, launch
from llava_finetune.planning import plan
from llava_finetune.planning.steps import batch_for, count_steps, epochs_for, warmup_of
from llava_finetune.training import schedule
from llava_finetune.training.moved import MovedWatch
from llava_finetune.training.schedule import announce, rates
from tests.training.conftest import Flags, record, rows_of
from tests.training.forked import train

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {
    "lora": "finetune_lora.sh", "qlora": "finetune_qlora.sh", "full": "finetune_full.sh", "pretrain": "pretrain.sh"
}  # fmt: skip
SIZES = (1, 3, 10, 50, 128, 129, 1000)


def script_flags(mode: str) -> list[str]:
    """The flags that a launch script hands over."""
    text = (ROOT / "scripts" / SCRIPTS[mode]).read_text()
    line = text[text.index(f"launch {mode}") :].replace("\\\n", " ").replace('"$@"', "")
    return shlex.split(line)[2:]


def write_records(folder: Path, number: int, pictures: Path | None = None) -> Path:
    """`number` captions on the four pictures of the shared data, or texts."""
    rows = [record(f"r-{index}", "<image>", f"number {index % 7}", image=f"{index % 4}.png") for index in range(number)]
    if pictures is None:
        rows = [record(f"r-{index}", "how many?", f"number {index % 7}") for index in range(number)]
    path = folder / f"{number}.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("number", SIZES)
@pytest.mark.parametrize("mode", SCRIPTS)
@pytest.mark.parametrize("world", [1, 2, 8])
def test_the_launchers_defaults_leave_steps_that_learn(mode: str, number: int, world: int, tmp_path: Path) -> None:
    data = write_records(tmp_path, number)
    flags = script_flags(mode)
    chosen = batches.choose(mode=mode, flags=flags, environment={}, world=world, on_gpu=False, data=str(data))
    size, parts, epochs = (
        float(chosen.flags[chosen.flags.index(name) + 1]) for name in (*batches.FLAGS, batches.EPOCHS)
    )
    steps = count_steps(number, epochs=epochs, per_device=int(size), accumulation=int(parts), ranks=world).steps
    assert 30 <= steps <= 75
    assert warmup_of(0.03, steps) < steps
    assert f" = {steps} steps of " in chosen.notes[1] and "(GLOBAL_BATCH and --num_train_epochs by" in chosen.notes[1]


def test_what_the_environment_says_keeps_upstreams_meaning(tmp_path: Path) -> None:
    data = str(write_records(tmp_path, 50))
    chosen = batches.choose(
        mode="lora",
        flags=("--num_train_epochs", "1"),
        environment={"GLOBAL_BATCH": "128"},
        world=1,
        on_gpu=True,
        data=data,
    )
    assert chosen.flags == ("--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "32")
    assert chosen.notes[1] == "50 records x 1 epoch = 1 step of 128, none of them warmup"


def test_plenty_of_records_have_upstreams_batch_and_one_epoch() -> None:
    assert (epochs_for(3840, "lora"), batch_for(3840, 1, "lora")) == (1, 128)
    assert (epochs_for(558_000, "pretrain"), batch_for(558_000, 1, "pretrain")) == (1, 256)
    assert batch_for(50, 8, "lora") == batch_for(50, 3, "lora") == 4, "more epochs make no larger batch"


@pytest.mark.parametrize(
    ("number", "more", "ranks"),
    [(10, "--num_train_epochs 3", 1), (9, "--gradient_accumulation_steps 2 --num_train_epochs 1.5", 1),
     (7, "--num_train_epochs 2", 2), (5, "--max_steps 4", 1), (3, "--num_train_epochs 1 --warmup_steps 0.9", 1)],
)  # fmt: skip
def test_the_steps_that_are_announced_are_those_that_are_taken(
    number: int, more: str, ranks: int, flags: Flags, data: Path, tmp_path: Path
) -> None:
    records = write_records(tmp_path, number, data)
    given = flags("lora", tmp_path / "run", f"--max_steps -1 --data_path {records} {more}")
    code, text = train(given, tmp_path / "out", ranks)
    assert code == 0, text
    said = re.search(r"(\d+) steps? of (\d+)(?: \(--max_steps\))?, (\S+) of them warmup", text)
    assert said, text
    taken = [row for row in rows_of(tmp_path / "run") if "loss" in row]
    assert len(taken) == int(said[1])
    assert sum(row["learning_rate"] > 0 for row in taken) > 0
    assert text.index(said[0]) < text.index("base "), "before a model is loaded"


def test_every_rate_is_the_trainers_own(flags: Flags, tmp_path: Path) -> None:
    more = "--max_steps 9 --warmup_steps 0.3 --lr_scheduler_type cosine"
    given = flags("lora", tmp_path / "run", more)
    expected = rates(parse(given).training, 9)
    code, text = train(given, tmp_path / "out")
    assert code == 0, text
    assert [row["learning_rate"] for row in rows_of(tmp_path / "run")] == pytest.approx(expected)


def announced(flags: Flags, output: Path, more: str, number: int = 50) -> list[str]:
    said: list[str] = []
    announce(parse(flags("lora", output, f"--max_steps -1 {more}")), number, said.append)
    return said


def test_a_warmup_that_covers_the_run_is_refused_before_a_model_is_loaded(flags: Flags, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--warmup_steps 100 covers the whole run, which has 75 step\(s\): .*0\.03"):
        announced(flags, tmp_path, "--warmup_steps 100")
    said = announced(flags, tmp_path, "--warmup_steps 0.03 --num_train_epochs 1 --per_device_train_batch_size 128")
    assert said[0].startswith(
        "50 records x 1 epoch = 1 step of 128, none of them warmup; learning rate 0.002 at step 1"
    )


def test_rates_of_0_are_refused_before_a_model_is_loaded(
    flags: Flags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "rates", lambda _, steps: [0.0] * steps)
    with pytest.raises(UserError, match=r"= 75 steps of 2, none of them warmup: the learning rate would be 0 at every"):
        announced(flags, tmp_path, "")
    with pytest.raises(UsageError, match=r"--mm_projector_lr 0: it would not learn; .*--freeze_mm_mlp_adapter True"):
        announced(flags, tmp_path, "--mm_projector_lr 0")


@pytest.mark.parametrize(("mode", "number"), [("lora", 1), ("qlora", 3), ("pretrain", 10), ("full", 50), ("lora", 128)])
def test_a_launchers_own_run_on_few_records_learns(
    mode: str, number: int, tiny: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its flags as the script gives them; loss falls from the first part to the last, every part moved."""
    started: list[list[str]] = []
    monkeypatch.setattr(launch, "run_until_it_fits", lambda command, *_: started.append(list(command)) or 0)
    records = write_records(tmp_path, number, data)
    given = {"MODEL": tiny, "DATA": records, "IMAGES": data, "OUTPUT": tmp_path / "run", "NUM_GPUS": 1}
    monkeypatch.delenv("GLOBAL_BATCH", raising=False)
    for name, value in {**given, "DEEPSPEED_CONFIG": "none", "LAUNCH_CHECKS": "off"}.items():
        monkeypatch.setenv(name, str(value))
    own = [word for word in script_flags(mode) if word != "openai/clip-vit-large-patch14-336"]
    own = [word for word in own if word != "--vision_tower"]
    assert launch.main([mode, *own]) == 0
    words = started[0][started[0].index("train") + 1 :]
    code, text = train([*words, "--dataloader_num_workers", "0", "--check_data", "False"], tmp_path / "out")
    assert code == 0, text
    losses = [row["loss"] for row in rows_of(tmp_path / "run") if "loss" in row]
    third = max(1, len(losses) // 3)
    assert len(losses) >= 30
    assert sum(losses[-third:]) < sum(losses[:third])
    assert "projector moved" in text and (
        mode == "pretrain" or "adapters moved" in text or "language model moved" in text
    )


def test_plan_proposes_what_the_launchers_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_records(tmp_path, 56)
    words = ["--model", "liuhaotian/llava-v1.5-7b", "--mode", "lora", "--gpus", "1x24GB", "--data", str(data)]
    assert plan.main(words) == 0
    said = capsys.readouterr().out
    assert "\n56 records x 3 epochs = 42 steps of 4, 2 of them warmup\n" in said
    assert "GLOBAL_BATCH=4 PER_GPU_BATCH=4" in said and "--num_train_epochs 3" in said


# ---- what did not move ----


class Model(torch.nn.Module):
    """Two adapters and a projector by upstream's names; what takes part in the loss is chosen."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("moves", "stays"):
            layer = torch.nn.Module()
            layer.lora_B = torch.nn.Linear(2, 2, bias=False)
            self.add_module(name, layer)
        self.mm_projector = torch.nn.Linear(2, 2, bias=False)


def watched(model: torch.nn.Module, pictures: int = 1, rate: float = 0.1, **more: Any) -> tuple[MovedWatch, Any]:
    trained = [one for one in model.parameters() if one.requires_grad]
    trainer = SimpleNamespace(
        model=model, optimizer=torch.optim.Adam(trained, lr=rate), num_pictures=pictures,
        group=SimpleNamespace(any=bool), watch=SimpleNamespace(overflows=0), is_deepspeed_enabled=False,
        state=SimpleNamespace(global_step=0, max_steps=9, is_world_process_zero=True), **more,
    )  # fmt: skip
    trainer._get_learning_rate = lambda: trainer.optimizer.param_groups[0]["lr"]
    watch = MovedWatch(trainer)
    watch.on_train_begin(None, trainer.state, None)
    return watch, trainer


def step(watch: MovedWatch, trainer: Any, *parts: torch.nn.Module) -> None:
    watch.on_step_begin(None, trainer.state, None)
    trainer.optimizer.zero_grad()
    for part in parts:
        next(part.parameters()).sum().backward()
    trainer.optimizer.step()
    trainer.state.global_step += 1
    watch.on_step_end(SimpleNamespace(fp16=False), trainer.state, None)


def test_an_adapter_without_a_gradient_is_named_at_the_end() -> None:
    model = Model()
    watch, trainer = watched(model)
    step(watch, trainer, model.moves, model.mm_projector)
    with pytest.raises(UserError) as caught:
        watch.on_train_end(None, trainer.state, None)
    assert str(caught.value) == (
        "1 of 2 adapters, first stays.lora_B.weight, did not move: no gradient reaches it, so it takes no part in the "
        "loss. Look at --lora_targets"
    )


def test_a_part_that_cannot_move_ends_the_run_early() -> None:
    model = Model()
    watch, trainer = watched(model)
    with pytest.raises(
        UserError, match=r"the projector \(mm_projector\.weight\) did not move in the run's first 3 steps"
    ):
        for _ in range(9):
            step(watch, trainer, model.moves, model.stays)


def test_a_rate_below_the_weights_precision_is_the_cause_that_is_named() -> None:
    model = Model().bfloat16()
    for layer in (model.moves, model.stays, model.mm_projector):
        torch.nn.init.constant_(next(layer.parameters()), 1.0)
    watch, trainer = watched(model, rate=1e-6)
    with pytest.raises(
        UserError, match=r"at most 1\.0e-06 is too small for weights kept in bfloat16\. Raise --learning"
    ):
        for _ in range(4):
            step(watch, trainer, model.moves, model.stays, model.mm_projector)


def test_without_a_picture_the_projector_may_stay(capsys: pytest.CaptureFixture[str]) -> None:
    model = Model()
    watch, trainer = watched(model, pictures=0)
    for _ in range(4):
        step(watch, trainer, model.moves, model.stays)
    watch.on_train_end(None, trainer.state, None)
    assert "all 2 adapters moved\nnot moved: projector; no record that was trained on has a picture" in (
        capsys.readouterr().out
    )


def test_a_run_at_rate_0_says_so() -> None:
    model = Model()
    watch, trainer = watched(model, rate=0.0)
    step(watch, trainer, model.moves, model.stays, model.mm_projector)
    with pytest.raises(UserError, match=r"2 of 2 adapters.* did not move: the learning rate was 0 at every step"):
        watch.on_train_end(None, trainer.state, None)


def test_a_model_of_frozen_weights_is_refused() -> None:
    model = Model()
    watch, trainer = watched(model)
    model.requires_grad_(False)
    with pytest.raises(UserError, match=r"nothing is trained: every weight is frozen\. Look at --freeze_backbone"):
        watch.on_train_begin(None, trainer.state, None)
