"""One training of the real driver on a pretended GPU, from the command line to its last step, and what was seen.

Records are made up with the wanted lengths and real pictures; nothing of the driver is replaced but the weights, and
it is left after its last step, before a result would be saved.

    seen = run(Job("liuhaotian/llava-v1.5-7b", "lora", batch=4))
    seen.peak   # bytes
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from llava_finetune.errors import UsageError, UserError
from llava_finetune.planning.activations import sequence_length
from llava_finetune.planning.from_config import read_shape
from llava_finetune.planning.setting import Setting
from llava_finetune.planning.shapes import Shape
from llava_finetune.pretended_gpu.device import CARDS, Card, pretend
from llava_finetune.pretended_gpu.kernels import gpu_kernels
from llava_finetune.pretended_gpu.ledger import Block
from llava_finetune.pretended_gpu.model_folder import make_folder
from llava_finetune.pretended_gpu.records import TEMPLATE, write_records
from llava_finetune.pretended_gpu.trace import Trace, marks_recomputation
from llava_finetune.pretended_gpu.weightless import from_config_alone

STEPS = 2
"""The optimizer's state is there from the second step on; a training of one step makes it beforehand."""


@dataclass(frozen=True)
class Job:
    """A training: model, mode and lengths as in `Setting`; `layers` cuts the model short, `flags` are further ones.

    `texts`: tokens of text of each record of a batch, where they are not all `setting.text_tokens`; one step holds
    one such batch, whatever the order that a trainer reads in.
    With `record`, the operations of the last step are kept. With `gradients`, an earlier batch has left its own when
    a step begins, as in the second of two accumulated ones.
    """

    model: str
    setting: Setting
    card: Card = CARDS["H200"]
    layers: int | None = None
    accumulation: int = 1
    steps: int = STEPS
    flags: tuple[str, ...] = ()
    record: bool = False
    gradients: bool = False
    vision_tower: str | None = None
    texts: tuple[int, ...] = ()


def lengths_of(job: Job, shape: Shape) -> list[int]:
    """Positions of each record of a batch."""
    texts = job.texts or (job.setting.text_tokens,) * job.setting.batch
    return [sequence_length(shape, dataclasses.replace(job.setting, text_tokens=tokens)) for tokens in texts]


def job_from(values: Mapping[str, Any]) -> Job:
    """A job from plain values: those of Job, with a card by its name, and those of Setting beside them."""
    own = {one.name for one in dataclasses.fields(Job)} - {"setting"}
    known = own | {one.name for one in dataclasses.fields(Setting)}
    if unknown := sorted(set(values) - known):
        raise UsageError(f"a pretended training knows no {', '.join(unknown)}; it takes {', '.join(sorted(known))}")
    kept: dict[str, Any] = {name: value for name, value in values.items() if name in own}
    if "card" in kept:
        kept["card"] = CARDS[kept["card"]]
    kept |= {name: tuple(kept[name]) for name in ("flags", "texts") if name in kept}
    setting = Setting(**{"stage": 0, **{name: value for name, value in values.items() if name not in own}})
    if setting.mode == "qlora" and setting.bits != 4:
        raise UserError(f"a base of {setting.bits} bits cannot be pretended, only one of 4: give --bits 4")
    return Job(setting=setting, **kept)


@dataclass
class Seen:
    """What a run showed. `start` is the event at which the last step began; `named` are blocks with a known purpose."""

    job: Job
    trace: Trace
    output: str
    lengths: list[int]
    start: int = 0
    named: dict[str, set[int]] = field(default_factory=dict)
    dtypes: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def peak(self) -> int:
        """The most bytes that were held in the last step."""
        return self.trace.ledger.peak_after(self.start)[0]

    def held_at_peak(self) -> list[Block]:
        """What those bytes were."""
        return self.trace.ledger.peak_after(self.start)[1]


def run(job: Job) -> Seen:
    """Train `job.steps` steps on the pretended card. Whatever the driver raises is raised here."""
    from llava_finetune.training.train import main

    shape = read_shape(job.model, job.vision_tower)
    seen = Seen(job, Trace(), "", lengths_of(job, shape))
    with tempfile.TemporaryDirectory() as work:
        folder = make_folder(Path(work), shape, job.layers)
        write_records(folder, shape, job.setting, job.steps * job.accumulation * job.setting.batch, job.texts)
        with _watched(seen), pretended(seen):
            main(command(job, folder))
    return seen


@contextlib.contextmanager
def pretended(seen: Seen) -> Iterator[None]:
    """Inside, what is built and trained lies on the job's card, without weights, and `seen` is told of all of it.

    The block is left when a trainer with the callbacks of steps.py has taken its last step.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    from llava_finetune.pretended_gpu.steps import Ended

    seen.trace.lengths = seen.lengths
    said = io.StringIO()
    with contextlib.suppress(Ended), contextlib.ExitStack() as stack:
        stack.callback(lambda: setattr(seen, "output", said.getvalue()))
        stack.enter_context(contextlib.redirect_stdout(said))
        stack.enter_context(pretend(seen.job.card, seen.trace.observer))
        stack.enter_context(gpu_kernels())
        stack.enter_context(from_config_alone())
        stack.enter_context(marks_recomputation(seen.trace))
        stack.enter_context(_real_batches())
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(seen.trace)
        yield


def command(job: Job, folder: Path) -> list[str]:
    """The training command line of a job."""
    setting = job.setting
    lora = ["--lora_enable", "True", "--lora_r", setting.rank, "--lora_alpha", 2 * setting.rank]
    lora += ["--lora_dropout", setting.dropout, "--lora_targets", setting.targets]
    modes: dict[str, list[Any]] = {"pretrain": ["--tune_mm_mlp_adapter", "True"], "full": [], "lora": lora}
    modes["qlora"] = [*lora, "--bits", setting.bits]
    words = [
        "--model_name_or_path", folder, "--data_path", folder / "records.json", "--image_folder", folder,
        "--output_dir", folder / "run", "--version", TEMPLATE, "--max_steps", job.steps,
        "--per_device_train_batch_size", setting.batch, "--gradient_accumulation_steps", job.accumulation,
        "--gradient_checkpointing", setting.checkpointing, "--model_max_length", setting.max_length,
        "--share_pictures", bool(setting.shared),
        "--base_dtype", setting.base_dtype if setting.in_fp8 else "auto",
        "--save_strategy", "no", "--check_data", "False", "--dataloader_num_workers", 0, *modes[setting.mode],
    ]  # fmt: skip
    return [*(str(word) for word in words), *job.flags]


@contextlib.contextmanager
def _watched(seen: Seen) -> Iterator[None]:
    """Inside, the driver's trainer tells `seen` of its steps and ends the run when its loop is through."""
    from llava_finetune.pretended_gpu.steps import watch
    from llava_finetune.training.trainer import RunTrainer

    real = RunTrainer.train

    def train(trainer: Any, *arguments: Any, **keywords: Any) -> None:
        watch(trainer, seen)
        real(trainer, *arguments, **keywords)

    with mock.patch.object(RunTrainer, "train", train):
        yield


@contextlib.contextmanager
def _real_batches() -> Iterator[None]:
    """Inside, batches are made of real tensors, on the CPU, as a loading process makes them."""
    from torch.utils._python_dispatch import _disable_current_modes
    from torch.utils.data import dataloader

    loader = dataloader._SingleProcessDataLoaderIter
    real = loader._next_data

    def next_data(iterator: Any) -> Any:
        with _disable_current_modes():
            return real(iterator)

    with mock.patch.object(loader, "_next_data", next_data):
        yield
