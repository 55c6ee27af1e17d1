"""Will it fit? Bytes per GPU for every mode from a model's config, and the launcher line for the one that is wanted.

No weights are loaded and nothing is downloaded. A GPU's size is read as its maker writes it: 24GB is 24 * 10^9 bytes.

    llava-finetune plan --model liuhaotian/llava-v1.5-7b --mode lora --gpus 1x24GB
    llava-finetune plan --learning-rate --help              which rate: short trainings, held-out loss with intervals
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from data_prep.numbers import whole
from data_prep.picture_folder import add_images_option
from llava_finetune.errors import UsageError
from llava_finetune.flags import command_parser
from llava_finetune.machine import GB, available_ram, readable
from llava_finetune.parent import bound_to_this
from llava_finetune.planning import exact
from llava_finetune.planning.activations import sequence_length
from llava_finetune.planning.disk_and_time import cost_lines
from llava_finetune.planning.from_config import read_shape
from llava_finetune.planning.memory import estimate, host_ram, trainable_parameters
from llava_finetune.planning.proposals import (
    MODES,
    Proposal,
    fitting,
    lengths,
    max_length,
    modes_for,
    picture_flags,
    propose,
    read_gpus,
    smallest,
    too_small,
    workers,
)
from llava_finetune.planning.setting import LORA_RANK, Setting
from llava_finetune.planning.shapes import Shape
from llava_finetune.planning.steps import batch_for, count_steps, epochs_for, usual_batch, warmup_of

EXAMPLES = """examples:
  llava-finetune plan --model liuhaotian/llava-v1.5-7b --mode lora --gpus 1x24GB
  llava-finetune plan --model liuhaotian/llava-v1.6-34b --mode qlora --gpus 1x48GB --json
  llava-finetune plan --model ./my-llava --mode full --gpus 8x80GB --data train.json --global-batch 128"""
SCRIPTS = {
    "pretrain": "pretrain.sh",
    "lora": "finetune_lora.sh",
    "qlora": "finetune_qlora.sh",
    "full": "finetune_full.sh",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the plan; exit code 1 where the wanted mode fits in no way."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "--learning-rate" in words:  # short trainings, in a process of their own: planning itself loads no torch
        words.remove("--learning-rate")
        command = [sys.executable, "-m", "llava_finetune.training.rate_sweep", *words]
        process = subprocess.Popen(command, env=bound_to_this(os.environ))
        try:
            return process.wait()
        finally:  # ended by a signal it removes its folder, which it could not after this one's end
            process.terminate()
            process.wait()
    options = _parser().parse_args(words)
    if options.share_pictures and not options.data:
        raise UsageError("--share_pictures without --data: which records share a picture is read from there")
    shape = read_shape(options.model, options.vision_tower)
    modes = modes_for(shape, options.mode, vars(options))
    num_gpus, gpu_bytes = read_gpus(options.gpus)
    wanted = _wanted_setting(options, shape, num_gpus)
    shape = fitting(shape, wanted, gpu_bytes, _global_batch(options, wanted.mode))
    rows = {mode: propose(shape, replace(wanted, mode=mode), gpu_bytes, _global_batch(options, mode)) for mode in modes}
    seen = _pretended(options, shape, wanted, rows[options.mode]) if options.exact else None
    if options.json:
        answer = _as_json(shape, wanted, num_gpus, gpu_bytes, rows)
        print(json.dumps(answer | ({"exact": seen[1]} if seen else {}), indent=2))
    else:
        data, images = options.data or "records.json", options.image_folder or "images"
        inputs = f"DATA={shlex.quote(data)} IMAGES={shlex.quote(str(images))}"
        print(_text(shape, wanted, num_gpus, gpu_bytes, rows, inputs, _records(options)))
        if seen:
            print("\n".join(["", *exact.lines(shape, *seen)]))
    return 0 if rows[options.mode] is not None else 1


def _pretended(
    options: argparse.Namespace, shape: Shape, wanted: Setting, proposal: Proposal | None
) -> tuple[Setting, dict[str, Any]]:
    """The proposed training, or the smallest of its mode, pretended."""
    setting = proposal.setting if proposal else smallest(shape, wanted)[0]
    accumulation = proposal.accumulation if proposal else exact.ACCUMULATED
    return exact.pretend(options.model, setting, accumulation, options.vision_tower)


def _records(options: argparse.Namespace) -> int | None:
    from data_prep.records.record import read_records

    return len(read_records(options.data)) if options.data else None


def _global_batch(options: argparse.Namespace, mode: str) -> int:
    """Records per step: as asked, else as the launchers take it for this number of records."""
    if options.global_batch:
        return int(options.global_batch)
    records = _records(options)
    return usual_batch(mode) if records is None else batch_for(records, epochs_for(records, mode), mode)


def _wanted_setting(options: argparse.Namespace, shape: Shape, num_gpus: int) -> Setting:
    setting = Setting(
        mode=options.mode,
        num_gpus=num_gpus,
        bits=options.bits,
        base_dtype=options.base_dtype,
        rank=options.lora_r,
        targets=options.lora_targets,
        max_length=options.model_max_length or max_length(shape),
    )
    if options.data:
        setting = replace(setting, **lengths(options.data, options.share_pictures))
    return setting


def _text(
    shape: Shape,
    wanted: Setting,
    num_gpus: int,
    gpu_bytes: int,
    rows: Mapping[str, Proposal | None],
    inputs: str,
    records: int | None,
) -> str:
    language, trained = shape.language, trainable_parameters(shape, wanted)
    lines = [
        f"{shape.name}: language model {language.num_parameters / 1e9:.2f} B, vision tower "
        f"{shape.vision.num_parameters / 1e6:.0f} M, projector {shape.projector_parameters / 1e6:.1f} M parameters",
        f"{wanted.mode}: {trained / 1e6:.1f} M trainable; a record has up to {sequence_length(shape, wanted)} "
        f"positions ({wanted.images} picture(s) of up to {shape.image_tokens} tokens, {wanted.text_tokens} of text)",
        *(["pictures are left whole: cut into tiles too few fit these GPUs"] if picture_flags(shape) else []),
        *(f"records that share pictures: {number} of a batch bring up to {most}" for number, most in wanted.shared[:1]),
        "",
        f"On each of {num_gpus} GPU(s) of {readable(gpu_bytes)}, in GB (nothing loaded; counted from the config):",
        "",
        *_table(shape, wanted, gpu_bytes, rows),
        "",
    ]
    proposal = rows[wanted.mode]
    if proposal is None:
        return "\n".join([*lines, too_small(shape, wanted, gpu_bytes)])
    return "\n".join([*lines, *_launch_lines(shape, proposal, num_gpus, inputs, records)])


LEGEND = (
    "ckpt: gradient checkpointing, less memory for about a third more time; grads, Adam: of what is trained; activ., "
    "logits, temp.: what a step computes; context, alloc.: what CUDA and torch keep for themselves"
)
COLUMNS = {
    "weights": "weights",
    "adapters": "adapters",
    "gradients": "grads",
    "optimizer": "Adam",
    "activations": "activ.",
    "logits": "logits",
    "temporary": "temp.",
    "context": "context",
    "allocator": "alloc.",
}


def _table(shape: Shape, wanted: Setting, gpu_bytes: int, rows: Mapping[str, Proposal | None]) -> list[str]:
    """One line per mode, with and without checkpointing: what it proposes, or at least needs."""
    head = f"  {'mode':<9}{'ZeRO':<10}{'batch':>5}  {'ckpt':<4}"
    lines = [head + "".join(f"{name:>9}" for name in (*COLUMNS.values(), "total", "host RAM"))]
    for mode, proposal in rows.items():
        best = proposal.setting if proposal else smallest(shape, replace(wanted, mode=mode))[0]
        for checkpointing in (True, False):
            setting = replace(best, checkpointing=checkpointing)
            sizes = estimate(shape, setting)
            values = [asdict(sizes)[name] for name in COLUMNS] + [sizes.total, host_ram(shape, setting, on_gpu=True)]
            mark = "*" if proposal and setting == best else " "
            config = f"{setting.stage}{'+offload' if setting.offload else ''}"
            row = f"{mark} {mode:<9}{config:<10}{setting.batch:>5}  {'yes' if checkpointing else 'no':<4}"
            fits = "fits" if sizes.total <= gpu_bytes else f"over by {(sizes.total - gpu_bytes) / GB:.1f}"
            lines.append(row + "".join(f"{value / GB:>9.2f}" for value in values) + f"  {fits}")
    return [*lines, "", LEGEND]


def _launch_lines(shape: Shape, proposal: Proposal, num_gpus: int, inputs: str, records: int | None) -> list[str]:
    setting = proposal.setting
    total = setting.batch * proposal.accumulation * num_gpus
    epochs = epochs_for(records, setting.mode, num_gpus) if records else None
    lines = [
        f"{setting.mode} as proposed (*): {num_gpus} GPU(s) x {setting.batch} x {proposal.accumulation} accumulated = "
        f"{total} records a step",
        *([_steps_line(records, epochs, proposal, num_gpus)] if records and epochs else []),
        "",
        f"MODEL={shlex.quote(shape.name)} {inputs} OUTPUT=runs/{setting.mode} \\",
        f"NUM_GPUS={num_gpus} GLOBAL_BATCH={total} PER_GPU_BATCH={setting.batch} DEEPSPEED_CONFIG={proposal.config} \\",
        f"bash scripts/{SCRIPTS[setting.mode]} --gradient_checkpointing {setting.checkpointing} "
        + " ".join(
            [
                f"--dataloader_num_workers {workers(num_gpus)}",
                *([f"--num_train_epochs {epochs}"] if epochs else []),
                *_asked(shape, setting),
            ]
        ),
    ]
    lines += ["", *cost_lines(shape, setting, records, epochs)]
    free = available_ram()
    if proposal.host_ram > free:
        lines += ["", f"Host RAM: about {readable(proposal.host_ram)}; this machine has {readable(free)} free."]
    return lines


def _steps_line(records: int, epochs: int, proposal: Proposal, num_gpus: int) -> str:
    steps = count_steps(
        records,
        epochs=epochs,
        per_device=proposal.setting.batch,
        accumulation=proposal.accumulation,
        ranks=num_gpus,
    )
    return steps.text(warmup_of(0.03, steps.steps))


def _asked(shape: Shape, setting: Setting) -> list[str]:
    """Flags for what was asked of the plan and differs from the launchers' own."""
    usual = Setting(setting.mode, max_length=max_length(shape))
    flags = {"--lora_r": "rank", "--lora_targets": "targets"} if setting.has_adapters else {}
    flags |= {"--bits": "bits"} if setting.mode == "qlora" else {}
    flags |= {"--base_dtype": "base_dtype"} if setting.in_fp8 else {}
    values = {flag: (getattr(setting, name), getattr(usual, name)) for flag, name in flags.items()}
    values["--model_max_length"] = (setting.max_length, usual.max_length)
    pictures = [*picture_flags(shape), *(["--share_pictures True"] if setting.shared else [])]
    return pictures + [f"{flag} {given}" for flag, (given, default) in values.items() if given != default]


def _as_json(
    shape: Shape, wanted: Setting, num_gpus: int, gpu_bytes: int, rows: Mapping[str, Proposal | None]
) -> dict[str, Any]:
    modes = {}
    for mode, proposal in rows.items():
        base = replace(wanted, mode=mode)
        setting, size = (proposal.setting, proposal.estimate.total) if proposal else smallest(shape, base)
        modes[mode] = {
            "fits": proposal is not None,
            "missing_bytes": max(0, size - gpu_bytes),
            "trainable_parameters": trainable_parameters(shape, base),
            "setting": asdict(setting),
            "bytes": {
                name: {**asdict(sizes), "total": sizes.total}
                for name, sizes in (
                    ("with_checkpointing", estimate(shape, replace(setting, checkpointing=True))),
                    ("without_checkpointing", estimate(shape, replace(setting, checkpointing=False))),
                )
            },
            "host_ram": host_ram(shape, setting, on_gpu=True),
            "accumulation": proposal.accumulation if proposal else None,
            "deepspeed_config": proposal.config if proposal else None,
        }
    return {"model": shape.name, "num_gpus": num_gpus, "gpu_bytes": gpu_bytes, "mode": wanted.mode, "modes": modes}


def _parser() -> argparse.ArgumentParser:
    what = "Memory per GPU of every mode, from the config alone, and the launcher line that fits."
    parser = command_parser("plan", what, EXAMPLES)
    parser.add_argument("--model", required=True, help="hub id that is built in, or a folder with config.json")
    parser.add_argument("--mode", choices=MODES, default="lora", help="the mode to launch (default lora)")
    parser.add_argument("--gpus", help="NUMBERxSIZE, for example 1x24GB; default: this machine's")
    parser.add_argument("--data", help="records file: its real lengths and pictures are counted")
    add_images_option(parser, "picture folder of --data, for the line that launches; default: images")
    parser.add_argument(
        "--global-batch",
        type=whole(1),
        help="records per optimizer step (default 128, pretrain 256; with --data fewer where there are few records)",
    )
    parser.add_argument("--bits", type=int, choices=(4, 8), default=4, help="bits of the base for qlora (default 4)")
    parser.add_argument(
        "--base_dtype",
        "--base-dtype",
        choices=("auto", "fp8"),
        default="auto",
        help="fp8: the frozen base of lora and pretrain in e4m3 (Hopper, Ada)",
    )
    parser.add_argument(
        "--lora_r", "--lora-r", type=whole(1, 65_536), default=LORA_RANK, help=f"LoRA rank (default {LORA_RANK})"
    )
    parser.add_argument("--lora_targets", "--lora-targets", default="language", help="as in train (default language)")
    parser.add_argument("--model_max_length", "--model-max-length", type=whole(1), help="default 2048, for 1.6 4096")
    parser.add_argument("--vision_tower", "--vision-tower", help="folder or hub id, for a plain language model")
    parser.add_argument(
        "--share_pictures",
        "--share-pictures",
        action="store_true",
        help="count batches as train's --share_pictures True makes them of --data",
    )
    parser.add_argument(
        "--exact", action="store_true", help="also run the wanted mode as a pretended training on this CPU"
    )
    parser.add_argument("--json", action="store_true", help="print the plan for a program")
    return parser
