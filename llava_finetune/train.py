"""Train a LLaVA: projector pretraining, full fine-tuning or LoRA, on one process or under DeepSpeed.

The whole run reads top to bottom in `train`: arguments, model, adapters, data, loop, save.

    llava-finetune train --model_name_or_path runs/base --data_path train.json --image_folder pictures \
        --lora_enable True --lora_r 128 --lora_alpha 256 --output_dir runs/mine
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from data_prep.record import DataError, read_records
from llava_finetune.arguments import Arguments, parse
from llava_finetune.building import (
    add_adapters,
    build_model,
    load_config,
    load_tokenizer,
    resolve,
    restore_trainable,
    template_of,
    trainable_table,
)
from llava_finetune.dataset import Collator, Encoder, RecordDataset
from llava_finetune.errors import UserError
from llava_finetune.fast_lora import speed_up
from llava_finetune.manifest import file_sha256, run_manifest, write_json
from llava_finetune.saving import FolderWriter
from llava_finetune.splice import can_unpad, unpad_attention


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and train. Exit codes: 0 done, 1 failed, 2 wrong use."""
    arguments = parse(list(sys.argv[1:] if argv is None else argv))
    try:
        train(arguments)
    except DataError as error:
        raise UserError(str(error)) from error
    finally:
        _leave_group()
    return 0


def train(arguments: Arguments) -> Any:
    """Run one training and save its result in `output_dir`. Returns the trainer, for tests."""
    training = arguments.training
    is_main = training.process_index == 0
    say = print if is_main else (lambda *_, **__: None)
    output = Path(training.output_dir)
    _prepare_output(output, training.resume, is_main)
    if training.deepspeed:
        import deepspeed

        # Without it ZeRO-3's parameter partitioning sees a world of one on CPU.
        deepspeed.init_distributed()
    set_seed(training.seed)
    for notice in arguments.notices:
        say(notice)
    say(f"precision {arguments.precision.name}: {arguments.precision.reason}")

    model, tokenizer, template = _model(arguments, say)
    tower = model.get_vision_tower()
    folder = Path(arguments.data.image_folder) if arguments.data.image_folder else None
    encoder = Encoder(
        tokenizer, template, tower.image_processor, model.config, folder, tower, tokenizer.model_max_length
    )
    records = read_records(Path(arguments.data.data_path))
    if not len(records):
        raise UserError(f"{arguments.data.data_path}: no records; nothing to train on")
    size = tower.config.image_size
    unpadded = _make_fast(model, training, say)
    collator = Collator(tokenizer.pad_token_id, torch.zeros(3, size, size), tokenizer.model_max_length, unpadded)
    writer = FolderWriter(arguments, tokenizer, template, tower.image_processor, is_main)
    if is_main:
        _write_run(output, arguments, model, template, len(records))

    trainer = _trainer(arguments, model, tokenizer, RecordDataset(records, encoder), collator, writer, output)
    before = _adapter_norm(model)
    trainer.train(resume_from_checkpoint=_checkpoint(output, training.resume))
    _check_moved(model, before, say)
    model.config.use_cache = True
    save(trainer, writer, output)
    say(f"saved {writer.kind} in {output}")
    return trainer


def _make_fast(model: Any, training: Any, say: Any) -> bool:
    """Switch on what makes steps faster at equal loss, and say what. Returns whether batches go without padding."""
    if training.fast_lora and training.lora_enable and (replaced := speed_up(model)):
        say(f"fast LoRA in {replaced} layers (--fast_lora False for peft's own)")
    if not training.unpadded:
        return False
    if not can_unpad(model.config):
        say(f"padded batches: {model.config._attn_implementation} attention, or a window or dropout in it, needs them")
        return False
    unpad_attention(model.config)
    say("batches without padding, each picture encoded once (--unpadded False for upstream's padded ones)")
    return True


def _model(arguments: Arguments, say: Any) -> tuple[Any, Any, str]:
    model_arguments, training = arguments.model, arguments.training
    base = model_arguments.model_name_or_path
    config = load_config(base, training.cache_dir)
    values = resolve(model_arguments, arguments.data.image_aspect_ratio, config)
    max_length = training.model_max_length or getattr(config, "tokenizer_model_max_length", None) or 2048
    tokenizer = load_tokenizer(base, training.cache_dir, max_length)
    template = template_of(model_arguments.version, base, config, tokenizer)
    say(f"base {base}: {config.model_type}, template {template}, vision tower {values.vision_tower}")
    model = build_model(arguments, config, values, tokenizer)
    if training.lora_enable:
        model = add_adapters(model, arguments)
        restore_trainable(model, arguments)
    say("trainable parameters:")
    for part, trained, total in trainable_table(model):
        say(f"  {part:<16}{trained:>14,} of {total:>14,}")
    return model, tokenizer, template


def _trainer(
    arguments: Arguments, model: Any, tokenizer: Any, dataset: Any, collator: Any, writer: FolderWriter, output: Path
) -> Any:
    from llava_finetune.trainer import RunLog, RunTrainer

    training = arguments.training
    trainer = RunTrainer(
        model=model,
        processing_class=tokenizer,
        args=training,
        train_dataset=dataset,
        data_collator=collator,
        save_extras=writer.extras,
    )
    from transformers import PrinterCallback, ProgressCallback

    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(RunLog(trainer, output / "log.jsonl", training.world_size))
    return trainer


def save(trainer: Any, writer: FolderWriter, output: Path) -> None:
    """Write the trained result and the trainer's state into the run's folder."""
    trainer.save_state()
    if writer.kind != "projector":
        trainer.save_model(str(output))
    writer.extras(trainer.model, output)


def _prepare_output(output: Path, resume: str, is_main: bool) -> None:
    left = [entry.name for entry in output.glob("*")] if output.is_dir() else []
    if resume == "none" and any(name.startswith("checkpoint-") or name == "log.jsonl" for name in left):
        raise UserError(
            f"{output} already holds a run ({', '.join(sorted(left)[:4])}); continue it with --resume auto, "
            "or choose another --output_dir"
        )
    if is_main:
        output.mkdir(parents=True, exist_ok=True)


def _checkpoint(output: Path, resume: str) -> str | None:
    """The folder to resume from: the newest whole checkpoint for `auto`, the one named, or none."""
    if resume == "none":
        return None
    if resume != "auto":
        if not (Path(resume) / "trainer_state.json").is_file():
            raise UserError(f"--resume {resume}: no trainer_state.json there; give a checkpoint-N folder")
        return resume
    whole = [path for path in output.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return str(max(whole, key=lambda path: int(path.name.rsplit("-", 1)[1]))) if whole else None


def _write_run(output: Path, arguments: Arguments, model: Any, template: str, num_records: int) -> None:
    data = Path(arguments.data.data_path)
    write_json(
        output / "run.json",
        run_manifest(
            ["llava-finetune", "train", *arguments.argv],
            {
                **dataclasses.asdict(arguments.model),
                **dataclasses.asdict(arguments.data),
                **arguments.training.to_sanitized_dict(),
            },
            data_sha256=file_sha256(data),
            data_path=str(data),
            image_folder=arguments.data.image_folder,
            num_records=num_records,
            seed=arguments.training.seed,
            precision=dataclasses.asdict(arguments.precision),
            conversation=template,
            world_size=arguments.training.world_size,
            trainable={part: trained for part, trained, _ in trainable_table(model)},
        ),
    )


def _adapter_norm(model: Any) -> int:
    return sum("lora_B" in name for name, _ in model.named_parameters())


def _check_moved(model: Any, num_adapters: int, say: Any) -> None:
    """After training no adapter may still be zero: peft starts B at zero, so a zero B never learned."""
    if not num_adapters:
        return
    still = []
    for name, parameter in model.named_parameters():
        if "lora_B" in name and parameter.requires_grad:
            if hasattr(parameter, "ds_id"):
                from deepspeed import zero

                with zero.GatheredParameters([parameter]):
                    moved = bool(parameter.data.any())
            else:
                moved = bool(parameter.data.any())
            if not moved:
                still.append(name)
    if still:
        raise UserError(f"{len(still)} of {num_adapters} adapters did not move (lora_B is zero), first {still[0]}")
    say(f"all {num_adapters} adapters moved")


def _leave_group() -> None:
    """Leave the process group together: without it a rank may abort after a good run."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and sys.exc_info()[0] is None:
        distributed.barrier()
        distributed.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from llava_finetune.cli import run_command

    raise SystemExit(run_command("llava_finetune.train", sys.argv[1:]))
