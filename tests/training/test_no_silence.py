"""Nothing fails in silence: numbers that are not finite, records without a lesson, a rate of 0."""

from __future__ import annotations

import functools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llava_finetune.config.arguments import parse
from llava_finetune.data.collator import TeachingCollator
from llava_finetune.data.example import Example
from llava_finetune.errors import UsageError, UserError
from llava_finetune.training.beginning import Run, _prepare_output, taken_back
from llava_finetune.training.model_setup import put_together
from llava_finetune.training.run_log import RunLog
from llava_finetune.training.watch import FiniteWatch, Interrupted, StopSignal
from tests.training.conftest import Flags, record, rows_of
from tests.training.forked import Wound, at_step, train
from tests.warm import fork


def poisoned(step: int, value: float) -> Wound:
    """A wound that puts a value into a trained weight after this step."""

    def wound() -> None:
        from llava_finetune.training.course import Course

        usual = Course.on_step_end

        def on_step_end(self: Course, args: Any, state: Any, control: Any, *, model: Any, **more: Any) -> None:
            if state.global_step == step:
                with torch.no_grad():
                    next(one for name, one in model.named_parameters() if "lora_B" in name).fill_(value)
            usual(self, args, state, control, model=model, **more)

        Course.on_step_end = on_step_end  # type: ignore[method-assign, assignment]

    return wound


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_first_loss_that_is_not_finite_stops_the_run_with_its_records(
    value: float, flags: Flags, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    code, text = train(flags("lora", output), tmp_path / "out", wound=poisoned(2, value))
    assert code == 1
    assert "error: step 3: the loss is nan, in the records " in text
    named = text.split("in the records ")[1].split(".")[0].split(", ")
    assert len(named) == 2 and all(name.startswith(("q-", "t-")) for name in named)
    assert "python -m data_prep show; try a lower --learning_rate, or --precision fp32" in text
    assert max(row["step"] for row in rows_of(output)) == 2, "no row pretends that the step was good"
    assert {path.name for path in output.glob("checkpoint-*")} == {"checkpoint-2"}


def test_a_held_out_loss_that_is_not_finite_stops_the_run(flags: Flags, data: Path, tmp_path: Path) -> None:
    more = f"--eval_data_path {data / 'eval.json'} --eval_steps 2 --eval_max_new_tokens 1"
    code, text = train(flags("lora", tmp_path / "run", more), tmp_path / "out", wound=poisoned(2, float("nan")))
    assert code == 1
    assert "error: step 2: the eval loss is nan, in the records q-0, q-1, q-2, q-3, q-4, t-0." in text
    assert [row["step"] for row in rows_of(tmp_path / "run") if "eval_loss" in row] == [0]


def test_a_gradient_that_is_not_finite_stops_the_run(flags: Flags, tmp_path: Path) -> None:
    def wound() -> None:
        from llava_finetune.training.trainer import RunTrainer

        usual = RunTrainer.training_step

        def training_step(self: RunTrainer, *arguments: Any, **keywords: Any) -> Any:
            loss = usual(self, *arguments, **keywords)
            if self.state.global_step == 1:
                next(one for one in self.model.parameters() if one.grad is not None).grad.fill_(float("inf"))
            return loss

        RunTrainer.training_step = training_step  # type: ignore[method-assign]

    code, text = train(flags("lora", tmp_path / "run"), tmp_path / "out", wound=wound)
    assert code == 1
    assert "error: step 2: the gradient norm is " in text and ", in the records " in text


def test_fp16_may_skip_overflowing_steps_but_not_for_ever() -> None:
    watch = FiniteWatch(tolerate_overflow=True)
    for _ in range(25):
        watch.note("gradient norm", 1, ["a"], float("inf"))
    with pytest.raises(UserError, match="step 1: the gradient norm is inf, in the records a"):
        watch.note("gradient norm", 1, ["a"], float("inf"))
    with pytest.raises(UserError, match="step 1: the loss is nan, in the records a"):
        FiniteWatch(tolerate_overflow=True).note("loss", 1, ["a"], torch.tensor(float("nan")))


def test_a_record_that_is_too_long_to_be_answered_is_named(flags: Flags, data: Path, tmp_path: Path) -> None:
    records = [
        *json.loads((data / "train.json").read_text()),
        record("long-1", "<image>\n" + "what is it? " * 60, "red", image="0.png"),
    ]
    (tmp_path / "records.json").write_text(json.dumps(records))
    more = f"--data_path {tmp_path / 'records.json'} --model_max_length 120 --per_device_train_batch_size 11"
    code, text = train(flags("lora", tmp_path / "run", more), tmp_path / "out")
    assert code == 1
    assert "error: record 'long-1': no supervised token within 120 tokens (the record has " in text


def test_records_that_lose_their_end_are_counted_text_alone_too(flags: Flags, data: Path, tmp_path: Path) -> None:
    records = [
        *json.loads((data / "train.json").read_text()),
        record("long-2", "two?", "blue and red " * 40),
        record("long-3", "<image>\nwhat?", "blue and red " * 14, image="0.png"),
    ]
    (tmp_path / "records.json").write_text(json.dumps(records))
    more = f"--data_path {tmp_path / 'records.json'} --model_max_length 120 --per_device_train_batch_size 12"
    code, text = train(flags("lora", tmp_path / "run", f"{more} --max_steps 1"), tmp_path / "out")
    assert code == 0, text
    assert "WARNING: 2 records were longer than --model_max_length and lost their end" in text


def test_a_batch_names_its_records_that_pictures_leave_no_room_to_answer() -> None:
    def example(name: str, picture: int) -> Example:
        labels = torch.tensor([-100] * 8 + [5, 6])
        return Example(name, labels, labels, length=10 + picture)

    collate = TeachingCollator(lambda examples: {"num": len(examples)}, 16)
    assert collate([example("a", 0), example("b", 7)]) == {"num": 2, "num_pictures": 0, "num_cut": 1}
    with pytest.raises(UserError) as caught:
        collate([example("a", 0), example("b", 8), example("c", 9)])
    assert str(caught.value).startswith(
        "records without a supervised token within --model_max_length 16 (pictures count): b, c. Shorten them or raise"
    )


def test_a_loss_of_exactly_0_is_an_error(flags: Flags, tmp_path: Path) -> None:
    def wound() -> None:
        from llava_finetune.training.trainer import RunTrainer

        usual = RunTrainer.training_step
        RunTrainer.training_step = lambda *a, **k: usual(*a, **k) * 0  # type: ignore[method-assign, assignment]

    code, text = train(flags("lora", tmp_path / "run"), tmp_path / "out", wound=wound)
    assert code == 1
    assert "error: step 1: the loss is exactly 0; nothing is taught. Look at the labels with" in text


def test_a_learning_rate_of_0_is_refused(flags: Flags, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--learning_rate 0: expected a number above 0 and at most 1000"):
        parse(flags("lora", tmp_path / "run", "--learning_rate 0"))


def test_a_learning_rate_that_falls_to_0_on_the_way_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = SimpleNamespace(num_samples=0, num_tokens=0, is_world_process_zero=lambda: True, take_numbers=dict)
    log = RunLog(trainer, tmp_path / "log.jsonl", 1)
    args = SimpleNamespace(get_warmup_steps=lambda steps: 2)
    for step in (1, 2, 5, 6, 10):
        state = SimpleNamespace(global_step=step, max_steps=10, is_world_process_zero=True)
        log.on_log(args, state, None, {"loss": 1.0, "learning_rate": 0.0 if step > 2 else 0.1, "grad_norm": 1.0})
    said = capsys.readouterr().out
    assert said.count("WARNING: the learning rate is 0 at step 5 of 10: nothing is learned from here on") == 1
    assert [row["step"] for row in rows_of(tmp_path) if "warning" in row] == [5]


def test_a_signal_before_the_first_step_ends_the_run_to_be_queued_again(flags: Flags, tmp_path: Path) -> None:
    def wound() -> None:
        import llava_finetune.training.train
        from tests.training.forked import told_to_stop

        llava_finetune.training.train.build = lambda _: told_to_stop()  # type: ignore[assignment]

    code, text = train(flags("lora", tmp_path / "run"), tmp_path / "out", wound=wound)
    assert code == 75
    assert "SIGTERM before the first step: nothing is lost; go on with the same command and --resume auto" in text


def test_the_second_interrupt_ends_a_run_at_once() -> None:
    signals = StopSignal()
    signals.has_begun = True
    signals._take(2, None)
    assert signals.name == "SIGINT"
    signals._take(15, None)  # the launcher passes on what the terminal has told already
    assert signals.name == "SIGINT"
    with pytest.raises(KeyboardInterrupt):
        signals._take(2, None)


def test_before_the_first_step_a_signal_that_comes_again_ends_a_run_at_once_and_an_echo_does_not() -> None:
    signals = StopSignal()
    with pytest.raises(Interrupted):
        signals._take(signal.SIGHUP, None)
    signals._take(signal.SIGTERM, None)  # the launcher passes on what the terminal has told already
    signals.received_at -= 60
    with pytest.raises(Interrupted):  # 75: a scheduler queues it again
        signals._take(signal.SIGTERM, None)
    with pytest.raises(KeyboardInterrupt):
        signals._take(signal.SIGINT, None)


@contextmanager
def disposed(number: int, handler: Any) -> Iterator[None]:
    """Inside, a signal of this process does this, until somebody else takes it over."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def test_a_rank_that_hangs_in_c_can_be_ended_by_sigquit() -> None:
    with disposed(signal.SIGQUIT, signal.SIG_DFL), StopSignal():
        assert signal.getsignal(signal.SIGQUIT) is signal.SIG_DFL


def test_a_closed_terminal_asks_to_save_unless_nohup_said_otherwise() -> None:
    with disposed(signal.SIGHUP, signal.SIG_IGN), StopSignal():
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    with disposed(signal.SIGHUP, signal.SIG_DFL):
        with StopSignal() as signals:
            signals.has_begun = True
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.name == "SIGHUP"
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


def test_a_pipe_in_the_place_of_the_log_is_refused_before_anything_is_loaded(flags: Flags, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run" / "log.jsonl")
    with ExitStack() as locks, pytest.raises(UserError, match=r"log\.jsonl: is a FIFO, expected a regular file"):
        _prepare_output(tmp_path / "run", "auto", locks, print)


def test_what_ends_before_the_first_step_by_whatever_cause_blocks_no_corrected_command(tmp_path: Path) -> None:
    for cause in (KeyboardInterrupt, OSError, UserError):
        with pytest.raises(cause), taken_back(tmp_path):
            (tmp_path / "run.json").write_text("{}")
            raise cause
        assert not (tmp_path / "run.json").exists()


def test_a_signal_to_the_data_workers_costs_nothing(flags: Flags, whole: Any, tmp_path: Path) -> None:
    """A scheduler signals every process: a worker that died of it would take its rank along before the save."""

    def act() -> None:
        import os
        import signal

        import psutil

        workers = psutil.Process().children()
        assert workers
        for one in workers:
            one.send_signal(signal.SIGTERM)
            one.send_signal(signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)  # the terminal was closed

    output = tmp_path / "run"
    more = "--dataloader_num_workers 1 --max_steps 30 --save_steps 100"
    code, text = train(flags("lora", output, more), tmp_path / "out", wound=at_step(3, act))
    assert code == 75, text
    assert "SIGHUP at step 3 of 30: checkpoint-3 is saved" in text


def of_two_ranks(act: Callable[[Any, int], int], tmp_path: Path) -> tuple[list[int], str]:
    """Exit codes and output of two ranks that act in one group, whose messages of every step may take a second."""

    def rank(number: int) -> int:
        import torch

        from llava_finetune.training.ranks import Group

        store, limit = f"file://{tmp_path / 'store'}", timedelta(minutes=2)
        torch.distributed.init_process_group("gloo", store, limit, world_size=2, rank=number)
        group = Group(limit)
        torch.distributed.barrier()
        torch.distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=1), group.handle)
        return act(group, number)

    with (tmp_path / "out").open("w") as out:
        pids = [fork(functools.partial(rank, number), [out.fileno(), out.fileno()]) for number in range(2)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    return codes, (tmp_path / "out").read_text()


def test_the_ranks_wait_for_what_one_looks_at_longer_than_for_a_message_of_every_step(tmp_path: Path) -> None:
    """A million pictures that one rank checks, or a model that it writes; a machine that freezes is not waited for."""

    def act(group: Any, number: int) -> int:
        if group.from_first(lambda: time.sleep(2) or "looked") != "looked":
            return 1
        time.sleep(2 * number)
        group.wait()
        try:
            group.any(False) if number == 0 else time.sleep(3)
        except RuntimeError:
            return 7
        return 0

    codes, said = of_two_ranks(act, tmp_path)
    assert codes == [7, 0], said


@pytest.mark.parametrize(("kind", "code"), [(KeyboardInterrupt, 130), (Interrupted, 75), (ValueError, 1)])
def test_what_ends_the_look_of_one_rank_ends_all_with_its_exit_code(
    kind: type[BaseException], code: int, tmp_path: Path
) -> None:
    def act(group: Any, number: int) -> int:
        def look() -> None:
            raise kind("ended")

        try:
            group.from_first(look)
        except UserError as error:
            return error.exit_code if str(error) == "ended" else 3
        except BaseException:
            return 4
        return 5

    codes, said = of_two_ranks(act, tmp_path)
    assert codes == [75 if kind is Interrupted else 4, code], said


def test_what_a_base_cuts_off_its_pictures_is_said(
    tiny: Path, flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for aspect, is_said in (("pad", False), ("square", True)):
        more = f"--image_aspect_ratio {aspect} --override_config True"
        run = Run(parse(flags("lora", tmp_path / "run", more)), tmp_path / "run", {}, is_main=True)
        put_together(run)
        assert ("pictures are cut to the square in their middle" in capsys.readouterr().out) == is_said
