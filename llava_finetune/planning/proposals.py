"""Ways to train that fit a GPU: which batch, accumulation, ZeRO stage and checkpointing, by planning/memory.py.

>>> from llava_finetune.planning.from_config import read_shape
>>> propose(read_shape("liuhaotian/llava-v1.5-7b"), Setting("lora"), 24 * GB, 128).config
'zero2'
"""

import os
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_prep.errors import shortened
from data_prep.numbers import real, whole
from llava_finetune.errors import UsageError, UserError
from llava_finetune.flags import flag, is_true, number_in
from llava_finetune.machine import GB, gpus, readable
from llava_finetune.planning.from_config import read_shape
from llava_finetune.planning.memory import Estimate, estimate, host_ram
from llava_finetune.planning.picture_batches import most_pictures
from llava_finetune.planning.setting import LORA_RANK, Setting
from llava_finetune.planning.shapes import FamilyShape, Shape

MODES = ("pretrain", "qlora", "lora", "full")
BATCHES = (16, 8, 4, 2, 1)
"""Records of a device's batch that are tried, the most first."""
MAX_WORKERS = 4
USABLE = 0.93
"""Share of a GPU's memory that a plan may fill. A card that is sold as 24 GB has 24 * 2^30 bytes: 0.93 of it is what
`--gpus 24GB` stands for, so that both give the same plan and an estimate may be a little low."""
BYTES_PER_TOKEN = 3.5
"""Bytes of UTF-8 text that one token of a Llama tokenizer stands for, on the safe side for English."""


@dataclass(frozen=True)
class Proposal:
    """A setting with its estimate, and the accumulation that makes the wanted global batch."""

    setting: Setting
    estimate: Estimate
    accumulation: int
    host_ram: int

    @property
    def config(self) -> str:
        """The DeepSpeed config's name, as DEEPSPEED_CONFIG takes it."""
        return config_name(self.setting)

    @property
    def flags(self) -> tuple[str, ...]:
        """The train flags that make this proposal."""
        return (
            *("--per_device_train_batch_size", str(self.setting.batch)),
            *("--gradient_accumulation_steps", str(self.accumulation)),
            *("--gradient_checkpointing", str(self.setting.checkpointing)),
            *("--dataloader_num_workers", str(workers(self.setting.num_gpus))),
        )


@dataclass(frozen=True)
class Choice:
    """What `--auto` adds to a launch."""

    deepspeed_config: str
    flags: tuple[str, ...]
    notes: tuple[str, ...]


def workers(num_gpus: int, cores: int | None = None) -> int:
    """Data loading processes of each rank: its share of the cores, at most MAX_WORKERS, which feed a 7B's step."""
    return max(1, min(MAX_WORKERS, (cores or os.cpu_count() or 1) // num_gpus))


def read_gpus(text: str | None) -> tuple[int, int]:
    """(number, bytes of each) from `8x80GB` or `24GB`; this machine's, by its smallest, where None is given."""
    if text is None:
        found = gpus()
        if not found:
            raise UsageError("this machine shows no GPU; say which ones the plan is for: --gpus 1x24GB")
        return len(found), round(USABLE * min(gpu.memory for gpu in found))
    match = re.fullmatch(r"(?:([0-9]{1,6})x)?([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*GB", text, re.IGNORECASE)
    if not match or not int(match[1] or 1) or not float(match[2]):
        raise UsageError(f"--gpus {shortened(text)}: expected NUMBERxSIZE, for example 1x24GB or 8x80GB")
    return int(match[1] or 1), round(float(match[2]) * GB)


def config_name(setting: Setting) -> str:
    """A setting's DeepSpeed config, as DEEPSPEED_CONFIG takes it."""
    return f"zero{setting.stage}{'_offload' if setting.offload else ''}" if setting.stage else "none"


def propose(
    shape: Shape, wanted: Setting, gpu_bytes: int, global_batch: int, config: str | None = None
) -> Proposal | None:
    """The fastest way of `wanted.mode` that fits, or None: the first of `candidates` at its largest batch."""
    for candidate in _possible(shape, wanted, config):
        batches = [size for size in _batches(global_batch, wanted.num_gpus) if size >= _useful(candidate)]
        for size in batches:
            setting = replace(candidate, batch=size)
            if estimate(shape, setting).total <= gpu_bytes:
                return _proposal(shape, setting, global_batch)
    return None


def fitting(shape: Shape, wanted: Setting, gpu_bytes: int, global_batch: int, config: str | None = None) -> Shape:
    """The shape to propose: its pictures cut, or left whole where a card is too small for four cut ones a batch.

    A card is, too, where cut pictures fit only with offloading; whole ones have to be better in one of both. Where
    neither fits, what is needed at least is said of whole ones.
    """
    if shape.uncut is None:
        return shape
    cut, whole = (propose(one, wanted, gpu_bytes, global_batch, config) for one in (shape, shape.uncut))
    return shape.uncut if cut is None or _comfort(whole) > _comfort(cut) else shape


def _comfort(found: Proposal | None) -> tuple[bool, bool, int]:
    """What a proposal is compared by: that there is one, without offloading, and records of a batch up to four."""
    if found is None:
        return False, False, 0
    return True, not found.setting.offload, min(4, found.setting.batch)


def picture_flags(shape: Shape) -> tuple[str, ...]:
    """The train flags for pictures that a plan leaves whole."""
    return ("--image_aspect_ratio", "pad") if isinstance(shape, FamilyShape) and shape.is_whole else ()


def candidates(wanted: Setting, config: str | None = None) -> Iterator[Setting]:
    """Settings from fast to slow: ZeRO-2, ZeRO-3, then offload, each without checkpointing and with it.

    `config` leaves only that one, `none` too; UsageError for one that no setting stands for.
    """
    stages = [(2, False), (3, False), (2, True), (3, True)]
    if config is not None:
        named = {config_name(replace(wanted, stage=one, offload=two)): (one, two) for one, two in [(0, False), *stages]}
        if config not in named:
            raise UsageError(f"--auto with DEEPSPEED_CONFIG={config}: give one of {', '.join(named)}, or leave it out")
        stages = [named[config]]
    for stage, offload in stages:
        if config is None and stage == 3 and (wanted.mode == "qlora" or (wanted.num_gpus == 1 and not offload)):
            continue  # ZeRO-3 cannot partition quantised weights, and on one GPU it has nothing to partition
        for checkpointing in (False, True):
            yield replace(wanted, stage=stage, offload=offload, checkpointing=checkpointing)


def modes_for(shape: Shape, mode: str, asked: Mapping[str, Any]) -> tuple[str, ...]:
    """The modes that a model can be trained by. Raises UsageError where `mode`, or a flag of `asked`, is none of it.

    A family of transformers' own classes has its connector already, and what training/family_modes.py refuses is
    refused here.
    """
    if not isinstance(shape, FamilyShape):
        return MODES
    if mode == "pretrain":
        raise UsageError(
            f"--mode pretrain: {shape.name} has its connector already; take --mode {', '.join(MODES[1:])}, or train "
            "the connector alone: scripts/finetune_full.sh with --freeze_backbone True"
        )
    given = {"base_dtype fp8": asked["base_dtype"] == "fp8"}
    given |= {name: asked[name] for name in ("exact", "share_pictures", "vision_tower")}
    for name in filter(given.get, given):
        raise UsageError(f"--{name}: {shape.name} is none of LLaVA's layouts, which alone take it; leave it out")
    return MODES[1:]


def _possible(shape: Shape, wanted: Setting, config: str | None) -> Iterator[Setting]:
    """The candidates but ZeRO-3 for families, whose ranks would wait for each other (training/family_modes.py)."""
    is_family = isinstance(shape, FamilyShape)
    return (one for one in candidates(wanted, config) if not (is_family and config is None and one.stage == 3))


def smallest(shape: Shape, wanted: Setting, config: str | None = None) -> tuple[Setting, int]:
    """The setting of `wanted.mode` that needs least on a GPU, at batch 1, and its bytes."""
    tried = [replace(setting, batch=1) for setting in _possible(shape, wanted, config)]
    sized = [(estimate(shape, setting).total, index) for index, setting in enumerate(tried)]
    size, index = min(sized)
    return tried[index], size


def choose_for_launch(
    *,
    model: str,
    mode: str,
    num_gpus: int,
    gpu: str | None,
    data: str | None,
    global_batch: int,
    flags: Sequence[str],
    config: str | None = None,
) -> Choice:
    """What `--auto` takes: the proposal for this machine's GPUs, or for `gpu`, under `config` where one is given.

    UserError says by how much nothing fits.
    """
    if gpu is None and not gpus():
        raise UsageError("--auto: this machine shows no GPU; say which card to plan for: GPU=24GB NUM_GPUS=1")
    _, gpu_bytes = read_gpus(gpu)
    shape = read_shape(model, flag(flags, "--vision_tower"))
    setting = Setting(
        mode=mode,
        num_gpus=num_gpus,
        bits=number_in(flags, "--bits", 4, whole(4, 16)),
        base_dtype=flag(flags, "--base_dtype") or "auto",
        rank=number_in(flags, "--lora_r", LORA_RANK, whole(1, 2**16)),
        dropout=number_in(flags, "--lora_dropout", 0.05, real(0, 1)),
        targets=flag(flags, "--lora_targets") or "language",
        fused_norms=_fuses(flags),
        max_length=number_in(flags, "--model_max_length", max_length(shape), whole(1, 2**25)),
    )
    if data and Path(data).is_file():
        setting = replace(setting, **lengths(data, is_true(flag(flags, "--share_pictures"))))
    aspect = flag(flags, "--image_aspect_ratio")
    if aspect == "pad":
        shape = shape.uncut or shape
    elif aspect is None:
        shape = fitting(shape, setting, gpu_bytes, global_batch, config)
    found = propose(shape, setting, gpu_bytes, global_batch, config)
    if found is None:
        raise UserError(too_small(shape, setting, gpu_bytes, config))
    note = (
        f"--auto: {found.config}, batch {found.setting.batch} x {found.accumulation} accumulated, checkpointing "
        f"{found.setting.checkpointing}: about {readable(found.estimate.total)} of {readable(gpu_bytes)} on each GPU"
    )
    pictures = () if aspect else picture_flags(shape)
    notes = (note, *(["--auto: pictures are left whole, for cut into tiles too few fit"] if pictures else []))
    return Choice(found.config, (*found.flags, *pictures), notes)


def _fuses(flags: Sequence[str]) -> bool:
    """Whether training takes a kernel for each norm: not beside layers that are compiled, or Liger's."""
    asked = flag(flags, "--fused_norms")
    others = ("--torch_compile", "--use_liger_kernel")
    return (asked is None or is_true(asked)) and not any(is_true(flag(flags, name)) for name in others)


def too_small(shape: Shape, wanted: Setting, gpu_bytes: int, config: str | None = None) -> str:
    """Why a mode fits in no way, by how much, and what would."""
    setting, size = smallest(shape, wanted, config)
    smaller = [
        mode
        for mode in MODES[1:]
        if mode != wanted.mode and smallest(shape, replace(wanted, mode=mode))[1] <= gpu_bytes
    ]
    advice = f"use {' or '.join(smaller)} on these GPUs" if smaller else "use a smaller model"
    return (
        f"{shape.name}: {wanted.mode} needs at least {readable(size)} on each of {wanted.num_gpus} GPU(s) (batch 1, "
        f"checkpointing, {config_name(setting)}), which have "
        f"{readable(gpu_bytes)}: {readable(size - gpu_bytes)} too little; {advice}, more GPUs, or larger ones"
    )


def max_length(shape: Shape) -> int:
    """Tokens that a record may have where no flag says: as the published bases, 4096 for those that cut pictures."""
    if isinstance(shape, FamilyShape):
        return 8192  # FAMILY_LENGTH of training/model_setup.py
    return 4096 if shape.anyres else 2048


def lengths(path: str, is_sharing: bool = False) -> dict[str, Any]:
    """Setting fields of a records file: longest text in tokens (estimated), most taught text, most pictures.

    With `is_sharing` also how many different pictures batches of each size hold.
    """
    from data_prep.records.record import images_of, read_records
    from data_prep.records.usable import taught

    text, learned, pictures = [1], [1], [0]
    shared: tuple[tuple[int, int], ...] = ()
    for record in read_records(Path(path)):
        turns = [
            (turn["from"], len(turn["value"].encode()) / BYTES_PER_TOKEN + 6)
            for turn in taught(record)["conversations"]
        ]
        text.append(round(sum(size for _, size in turns)) + 40)
        learned.append(round(sum(size for who, size in turns if who == "gpt")))
        pictures.append(len(images_of(record)))
    if is_sharing:
        keys = [tuple(images_of(record)) or None for record in read_records(Path(path))]
        shared = tuple((size, most_pictures(keys, size)) for size in BATCHES)
    return {"shared": shared, "text_tokens": max(text), "supervised_tokens": _high(learned), "images": max(pictures)}


def _high(values: Sequence[int]) -> int:
    """The 99th percentile: a batch rarely holds more than that per record."""
    return round(statistics.quantiles(values, n=100)[98]) if len(values) > 1 else values[0]


def _batches(global_batch: int, num_gpus: int) -> list[int]:
    """Per-GPU batches to try, largest first: powers of two that the global batch is made of."""
    most = max(1, min(BATCHES[0], global_batch // num_gpus))
    return [size for size in BATCHES if size <= most]


def _useful(candidate: Setting) -> int:
    """Checkpointing costs a third of the speed; a batch below 4 costs more."""
    return 1 if candidate.checkpointing else 4


def _proposal(shape: Shape, setting: Setting, global_batch: int) -> Proposal:
    accumulation = max(1, round(global_batch / (setting.batch * setting.num_gpus)))
    return Proposal(setting, estimate(shape, setting), accumulation, host_ram(shape, setting, on_gpu=True))
