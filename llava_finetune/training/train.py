"""Train a LLaVA: projector pretraining, full fine-tuning or LoRA, on one process or under DeepSpeed.

The whole run reads top to bottom in `train`: arguments, model, adapters, data, loop, save.

    llava-finetune train --model_name_or_path runs/base --data_path train.json --image_folder pictures \
        --lora_enable True --lora_r 128 --lora_alpha 256 --output_dir runs/mine
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from data_prep.records.record import DataError, read_records
from llava_finetune.config.arguments import TURNS, Arguments, parse
from llava_finetune.data.collator import Collator, TeachingCollator
from llava_finetune.data.dataset import Encoder, RecordDataset
from llava_finetune.data.feature_cache import FeatureCache, fingerprint, reason_against
from llava_finetune.data.replay import mixed
from llava_finetune.data.unreadable_pictures import WithSubstitutes
from llava_finetune.errors import UserError
from llava_finetune.kernels.fast_lora import speed_up
from llava_finetune.kernels.unpadded_attention import can_unpad, unpad_attention
from llava_finetune.launching import launch_command, preflight
from llava_finetune.model.adapters import add_adapters, require_same_adapter
from llava_finetune.model.building import (
    build_model,
    load_config,
    load_tokenizer,
    resolve,
    restore_trainable,
    template_of,
    trainable_table,
)
from llava_finetune.model.forward_parts import ForwardParts
from llava_finetune.model.saving import FolderWriter
from llava_finetune.saved.checkpoints import STAGING, copy_result, read_seal, step_of, sweep
from llava_finetune.saved.manifest import file_sha256, run_manifest, write_json
from llava_finetune.training.data_check import check_data
from llava_finetune.training.evaluator import EvaluationSettings, Evaluator, with_folder
from llava_finetune.training.finishing import complete, finish_from, has_ended, prepare_result, show_again, was_finished
from llava_finetune.training.heap_trim import HeapTrim
from llava_finetune.training.moved import MovedWatch
from llava_finetune.training.resume import differences, find, refuse_differences, rewind, settings_of
from llava_finetune.training.run_log import RunLog
from llava_finetune.training.schedule import announce
from llava_finetune.training.trackers import make_trackers
from llava_finetune.training.watch import StopSignal


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
    """Run one training and save its result in `output_dir`. Returns the trainer (None: finished before), for tests."""
    signals = StopSignal()
    signals.install()
    try:
        return _train(arguments, signals)
    finally:
        signals.restore()


def _train(arguments: Arguments, signals: StopSignal) -> Any:
    training = arguments.training
    is_main = training.process_index == 0
    say = functools.partial(print, flush=True) if is_main else (lambda *_, **__: None)
    output = Path(training.output_dir)
    _prepare_output(output, training.resume, is_main)
    if training.deepspeed:
        import deepspeed

        if is_main:
            _drop_stale_locks(say)
        # Without it ZeRO-3's parameter partitioning sees a world of one on CPU.
        deepspeed.init_distributed()
    for notice in arguments.notices:
        say(notice)
    say(f"precision {arguments.precision.name}: {arguments.precision.reason}")
    settings = settings_of(arguments)
    checkpoint = find(output, training.resume, say)
    if checkpoint:
        refuse_differences(checkpoint, settings, training.resume_changed, say)
    if training.resume != "none" and _is_finished(arguments, output, checkpoint, settings, is_main):
        at = f"at step {step_of(checkpoint)} " if checkpoint else ""
        say(f"{output} is finished {at}already; nothing to do")
        return None
    if checkpoint:
        say(f"going on from {checkpoint}")
    if is_main:
        sweep(output)
        rewind(output, step_of(checkpoint) if checkpoint else -1)
        if arguments.data.check_data:
            check_data(arguments.data, output, say)
    set_seed(training.seed)
    trainer = _put_together(arguments, settings, output, say)
    trainer.add_callback(MovedWatch(trainer))
    trainer.add_callback(_course(trainer, signals))
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    _finish(arguments, trainer, output, settings, say)
    return trainer


def _put_together(arguments: Arguments, settings: dict[str, Any], output: Path, say: Any) -> Any:
    """Model, data and the loop around them."""
    training, data = arguments.training, arguments.data
    records = _records(Path(data.data_path), training.world_size)
    announce(arguments, len(records), say)
    model, tokenizer, template = _model(arguments, say)
    tower = model.get_vision_tower()
    size = tower.config.image_size
    unpadded = _make_fast(model, arguments, say)
    encoder = Encoder(
        tokenizer,
        template,
        tower.image_processor,
        model.config,
        Path(data.image_folder) if data.image_folder else None,
        tower,
        tokenizer.model_max_length,
        TURNS[data.independent_turns.lower()],
        _feature_cache(model, arguments, unpadded, say),
    )
    dataset: Any = RecordDataset(records, encoder, training.group_by_real_length)
    training.group_by_modality_length |= training.group_by_real_length
    if data.replay:
        dataset = mixed(dataset, data.replay, with_folder(encoder, data.replay_image_folder), training.seed)
        say(f"replay: {len(dataset) - len(records)} general records beside {len(records)} ({data.replay})")
    dataset = WithSubstitutes(dataset)
    collator = Collator(tokenizer.pad_token_id, torch.zeros(3, size, size), tokenizer.model_max_length, unpadded)
    is_main = training.process_index == 0
    writer = FolderWriter(arguments, tokenizer, template, tower.image_processor, is_main)
    run = _write_run(output, arguments, model, template, len(dataset)) if is_main else {}
    trainer = _trainer(arguments, model, tokenizer, dataset, collator, writer, settings)
    log = RunLog(
        trainer,
        output / "log.jsonl",
        training.world_size,
        make_trackers(arguments.report_to, output, run) if is_main else (),
    )
    trainer.add_callback(log)
    trainer.run_log = log
    if training.trim_heap and not torch.cuda.is_available():
        trainer.add_callback(HeapTrim())
    if training.profile:
        from llava_finetune.training.profiling import StepProfile

        trainer.add_callback(StepProfile(trainer, training.profile, output))
    if data.eval_data_path:
        trainer.examiner = _examiner(arguments, trainer, encoder, collator, log)
        trainer.add_callback(trainer.examiner)
    return trainer


def _records(path: Path, ranks: int) -> Any:
    """The records to train on, looked at before a model is loaded for nothing."""
    records = read_records(path)
    if not len(records):
        raise UserError(f"{path}: no records; nothing to train on")
    if len(records) < ranks:
        raise UserError(f"{path}: {len(records)} record(s) for {ranks} ranks; start at most {len(records)} (NUM_GPUS)")
    return records


def _examiner(arguments: Arguments, trainer: Any, encoder: Encoder, collator: Any, log: Any) -> Any:
    from llava_finetune.training.evaluation_schedule import Examiner

    data, training = arguments.data, arguments.training
    how = EvaluationSettings(data.eval_limit, training.per_device_eval_batch_size, data.eval_max_new_tokens)
    encoder = dataclasses.replace(encoder, cache=None)  # answers are generated from pixels
    files = [
        ("eval", data.eval_data_path, data.eval_image_folder),
        ("probe", data.probe_data_path, data.probe_image_folder),
    ]
    evaluators = [
        Evaluator(name, Path(path), with_folder(encoder, folder), collator, encoder.template, how)
        for name, path, folder in files
        if path
    ]
    return Examiner(trainer, evaluators, arguments.eval_every, arguments.metric, training.early_stopping_patience, log)


def _make_fast(model: Any, arguments: Arguments, say: Any) -> bool:
    """Switch on what makes steps faster at equal loss, and say what. Returns whether batches go without padding."""
    training = arguments.training
    _base_of(model).loss_chunk = training.loss_chunk
    for line in arguments.kernels.apply(model):
        say(line)
    if training.fast_lora and training.lora_enable and (replaced := speed_up(model)):
        say(f"fast LoRA in {replaced} layers (--fast_lora False for peft's own)")
    if not training.unpadded:
        return False
    if not can_unpad(model.config):
        say(f"padded batches: {model.config._attn_implementation} attention, or a window or dropout in it, needs them")
        return False
    unpad_attention(model.config)
    # Under ZeRO-3 layers that run twice would gather their weights twice, and the other ranks would not.
    if (training.world_size > 1 or training.deepspeed) and arguments.zero_stage < 3:
        _base_of(model).parts = ForwardParts(training.process_index)
    say("batches without padding, each picture encoded once (--unpadded False for upstream's padded ones)")
    return True


def _base_of(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _feature_cache(model: Any, arguments: Arguments, unpadded: bool, say: Any) -> FeatureCache | None:
    """The features kept on disk, where the run asks for them and can use them."""
    training = arguments.training
    if not training.cache_features:
        return None
    tower = model.get_vision_tower()
    if reason := reason_against(tower, unpadded, arguments.zero_stage):
        say(f"--cache_features {training.cache_features} is left out: {reason}")
        return None
    limit = int(training.cache_gb * 1e9) // training.world_size
    precision = f"{arguments.precision.name}{'' if training.deepspeed else ', autocast'}"
    cache = FeatureCache(Path(training.cache_features), fingerprint(tower, model.config, precision), limit)
    _base_of(model).feature_cache = cache
    say(f"features of pictures are kept in {cache.folder} (frozen tower; up to {training.cache_gb:g} GB)")
    return cache


def _model(arguments: Arguments, say: Any) -> tuple[Any, Any, str]:
    model_arguments, training = arguments.model, arguments.training
    base = model_arguments.model_name_or_path
    config = load_config(base, training.cache_dir)
    values = resolve(model_arguments, arguments.data.image_aspect_ratio, config)
    require_same_adapter(arguments)
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
    arguments: Arguments, model: Any, tokenizer: Any, dataset: Any, collator: Any, writer: FolderWriter, settings: Any
) -> Any:
    from transformers import PrinterCallback, ProgressCallback

    from llava_finetune.training.trainer import RunTrainer

    trainer = RunTrainer(
        model=model,
        processing_class=tokenizer,
        args=arguments.training,
        train_dataset=dataset,
        data_collator=TeachingCollator(collator, tokenizer.model_max_length),
        writer=writer,
        settings=settings,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def _course(trainer: Any, signals: StopSignal) -> Any:
    from llava_finetune.training.trainer import Course

    return Course(trainer, signals)


def _is_finished(
    arguments: Arguments, output: Path, checkpoint: Path | None, settings: dict[str, Any], is_main: bool
) -> bool:
    """Whether nothing is left to train; a result that a killed run owes is written then."""
    if was_finished(output, checkpoint, settings):
        if is_main:
            show_again(output)
        return True
    if checkpoint is None or differences(read_seal(checkpoint)["settings"], settings) or not has_ended(checkpoint):
        return False
    return finish_from(output, checkpoint, settings, arguments.keep_best) if is_main else True


def _finish(arguments: Arguments, trainer: Any, output: Path, settings: dict[str, Any], say: Any) -> None:
    """Put the result into the run's folder: the best checkpoint's files, or the last weights. Then cards and report."""
    training = arguments.training
    is_main = training.process_index == 0
    step, best = trainer.state.global_step, trainer.best_step if arguments.keep_best else None
    staging = prepare_result(output) if is_main else output / STAGING / "result"
    trainer.group.wait()
    if best is not None and best != step:
        if is_main:
            copy_result(output / f"checkpoint-{best}", staging)
    else:
        trainer.model.config.use_cache = True
        trainer.save_weights(staging)
    trainer.group.wait()
    if is_main:
        trainer.state.save_to_json(str(output / "trainer_state.json"))
        complete(output, staging, step, best or step, settings)
    if trainer.num_cut:
        say(f"WARNING: {trainer.num_cut} records were longer than --model_max_length and lost their end (this rank)")
    for tracker in trainer.run_log.trackers:
        tracker.finish()
    where = f" of step {best}, best by {arguments.metric}" if best is not None else ""
    say(f"saved {trainer.writer.kind}{where} in {output}")


def _drop_stale_locks(say: Any) -> None:
    """As the launcher does, for a run that was started without it."""
    # On a shared file system another machine may hold the lock: then only one that is surely dead is removed.
    alone = os.environ.get("MASTER_ADDR", "127.0.0.1") in ("127.0.0.1", "localhost")
    for lock in preflight.drop_stale_locks(preflight.extensions_folder(), min_age=60.0 if alone else 3600.0):
        say(f"removed a lock that a killed build left: {lock}")


def _prepare_output(output: Path, resume: str, is_main: bool) -> None:
    left = [entry.name for entry in output.iterdir() if entry.name[0] != "."] if output.is_dir() else []
    if resume == "none" and left:
        raise UserError(
            f"{output} already holds something ({', '.join(sorted(left)[:4])}); continue it with --resume auto, "
            "or choose another --output_dir"
        )
    if is_main:
        output.mkdir(parents=True, exist_ok=True)


def _write_run(output: Path, arguments: Arguments, model: Any, template: str, num_records: int) -> dict[str, Any]:
    data = Path(arguments.data.data_path)
    run = run_manifest(
        launch_command.command(arguments.argv),
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
    )
    write_json(output / "run.json", run)
    return run


def _leave_group() -> None:
    """Leave the process group together: without it a rank may abort after a good run."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and sys.exc_info()[0] is None:
        distributed.barrier()
        distributed.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from llava_finetune.cli import run_command

    raise SystemExit(run_command("llava_finetune.training.train", sys.argv[1:]))
