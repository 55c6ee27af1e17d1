"""The two stages in which a LLaVA is made of a language model and a vision tower, at tiny size."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llava_finetune.merge.command import HeldOut, merge
from tests.training.forked import train

Train = Callable[[str, Path, str], Path]
"""name, output, more flags: the folder of a run that ended well."""


def command_line(language: Path, tower: Path, records: Path, output: Path, more: str) -> list[str]:
    """A run's command line; the pictures lie beside the records."""
    return (
        f"--model_name_or_path {language} --vision_tower {tower} --data_path {records} "
        f"--image_folder {records.parent} --output_dir {output} --mm_projector_type mlp2x_gelu "
        "--mm_vision_select_layer -2 --mm_use_im_patch_token False --image_aspect_ratio pad --precision fp32 --seed 7 "
        "--lr_scheduler_type constant --per_device_train_batch_size 4 --dataloader_num_workers 0 --check_data False "
        f"--gradient_checkpointing False {more}"
    ).split()


def outspoken(loaded: Any) -> Any:
    """The loaded model without tokens that nobody sees: a tiny one that would end at once has to answer."""
    everything = range(len(loaded.tokenizer) + 8)  # the head has a few rows more
    silent = {one for one in everything if not loaded.tokenizer.decode([one], skip_special_tokens=True).strip()}
    loaded.model.generation_config.suppress_tokens = sorted(silent)
    return loaded


def ended_well(flags: list[str], output: Path) -> Path:
    """The folder of a run that ended well."""
    code, text = train(flags, output.parent / "out")
    assert code == 0, text
    return output


def two_stages(
    run: Train, new_folder: Callable[[], Path], first: str, second: str
) -> Callable[[str], tuple[Path, Path]]:
    """By name: the runs of stage 1 (`first`: its steps) and of stage 2 on its projector, each made once."""

    @functools.cache
    def both(name: str) -> tuple[Path, Path]:
        work = new_folder()
        one = run(name, work / "one", f"--version plain --tune_mm_mlp_adapter True {first}")
        return one, run(name, work / "two", f"{second} --pretrain_mm_mlp_adapter {one / 'mm_projector.bin'}")

    return both


def merges(
    stages: Callable[[str], tuple[Path, Path]], file: Path, new_folder: Callable[[], Path]
) -> Callable[[str], Path]:
    """By name: the second of `two_stages` merged, held against four records of a file; once each."""

    @functools.cache
    def merged(name: str) -> Path:
        folder = new_folder() / "merged"
        merge(str(stages(name)[1]), folder, held_out=HeldOut(file, file.parent, 4))
        return folder

    return merged
