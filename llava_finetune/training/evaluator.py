"""Evaluation while training: loss and generated answers of held-out records, by the weights as they are in training.

Every rank takes every n-th question; answers are greedy, batched, left padded, with a KV cache. Under ZeRO-3 all ranks
make the same number of forward passes, so shards are filled up with repeated questions that do not count.

    evaluator = Evaluator("eval", records, folder, settings)
    row, predictions = evaluator.run(trainer)          # {"eval_loss": ..., "eval_exact_match": ...}, every answer
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from llava_finetune.data.collator import ModelInputs
from llava_finetune.data.dataset import RecordDataset
from llava_finetune.errors import UserError
from llava_finetune.evaluation import metrics
from llava_finetune.evaluation.generate_answers import Question, answer, held_out_questions
from llava_finetune.evaluation.record_losses import RecordLoss, mean_loss, record_losses
from llava_finetune.model.loaded import Loaded
from llava_finetune.training.ranks import Group
from llava_finetune.training.watch import FiniteWatch


@dataclass(frozen=True)
class EvaluationSettings:
    """How a training evaluates: questions at most (0: all), questions per batch and rank, and tokens per answer."""

    limit: int
    batch_size: int
    max_new_tokens: int


def shard(count: int, group: Group) -> tuple[list[int], int]:
    """This rank's indices of `count` items, as many as every other rank's, and how many of them count."""
    own = list(range(group.rank, count, group.size))
    width = -(-count // group.size)
    return own + [0] * (width - len(own)), len(own)


class Evaluator:
    """Scores one records file under one name: `eval` (held out), `probe` (general, for forgetting), `hallucination`."""

    def __init__(
        self, name: str, path: Path, encoder: Any, collator: Any, template: str, settings: EvaluationSettings
    ) -> None:
        self.name, self.path, self.template, self.settings = name, path, template, settings
        self.encoder, self.collator = encoder, collator
        self.questions: list[Question] = held_out_questions(
            path, f"--{name}_data_path {path}", encoder.image_folder, f"--{name}_image_folder", sample=settings.limit
        )
        # The loss is taken on the records whose questions are answered, so that both numbers speak of the same data.
        records = {id(one.record): one.record for one in self.questions}
        self.places = {name: place for place, name in enumerate(records)}
        self.dataset = RecordDataset(list(records.values()), encoder)

    def run(self, trainer: Any, group: Group) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Numbers as NAME_loss, NAME_exact_match ..., and the predictions in the order of the questions."""
        start = time.monotonic()
        with inference(trainer):
            losses = self.losses(trainer, group, self.dataset)
            self._require_sound(losses, trainer.state.global_step)
            predictions = self._answers(trainer, group)
        for question, prediction in zip(self.questions, predictions, strict=True):
            prediction["loss"] = losses[self.places[id(question.record)]].mean
        scores = metrics.score(predictions)
        seconds = time.monotonic() - start
        row: dict[str, float] = {
            f"{self.name}_loss": mean_loss(losses.values()),
            f"{self.name}_num_cut": sum(loss.is_cut for loss in losses.values()),
        }
        for key, value in scores.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                row[f"{self.name}_{key}"] = value
        row[f"{self.name}_seconds"] = seconds
        return row, predictions

    def _require_sound(self, losses: Mapping[int, RecordLoss], step: int) -> None:
        """Refuse a loss that is not finite, and records whose answers do not fit: both would pass for a number."""
        ids = [str(record.get("id", place)) for place, record in enumerate(self.dataset.records)]
        mute = [ids[index] for index, loss in sorted(losses.items()) if not loss.num_tokens]
        if mute:
            raise UserError(
                f"--{self.name}_data_path {self.path}: {len(mute)} of {len(ids)} records have no answer token within "
                f"--model_max_length {self.collator.max_length} (pictures count), the first: {mute[0]}; shorten them, "
                "take them out, or raise --model_max_length"
            )
        broken = [index for index, loss in sorted(losses.items()) if not math.isfinite(loss.total)]
        if broken:
            FiniteWatch().note(f"{self.name} loss", step, [ids[index] for index in broken], losses[broken[0]].total)

    def losses(self, trainer: Any, group: Group, dataset: RecordDataset) -> dict[int, RecordLoss]:
        """The loss of every record, by its index in the data set, on every rank."""
        indices, num_own = shard(len(dataset), group)

        def forward(batch: ModelInputs) -> Any:
            with trainer.accelerator.autocast():
                return trainer.model(**trainer._prepare_inputs(batch))

        size = self.settings.batch_size
        own = record_losses(forward, dataset, indices, self.collator, size, num_own)
        return {index: loss for part in group.gather(own, patiently=True) for index, loss in part.items()}

    def _answers(self, trainer: Any, group: Group) -> list[dict[str, Any]]:
        indices, num_own = shard(len(self.questions), group)
        model = trainer.model.get_base_model() if hasattr(trainer.model, "get_base_model") else trainer.model
        tokenizer, family = trainer.processing_class, getattr(self.encoder, "family", None)
        loaded = Loaded(
            tokenizer,
            model,
            None if family else self.encoder.image_processor,
            self.template,
            model.dtype if family else model.get_vision_tower().dtype,
            trainer.args.device,
            tokenizer.model_max_length,
            family=family,
        )
        with trainer.accelerator.autocast():
            # Not under inference_mode: ZeRO-3 leaves gathered weights in the parameters, and training uses them.
            own = answer.__wrapped__(  # type: ignore[attr-defined]
                loaded,
                [self.questions[index] for index in indices],
                self.encoder.image_folder,
                batch_size=self.settings.batch_size,
                max_new_tokens=self.settings.max_new_tokens,
                say=(lambda line: print(line, flush=True)) if group.rank == 0 else (lambda line: None),
                same_passes=group.size > 1,
            )
        parts = group.gather(own[:num_own], patiently=True)
        return [parts[index % group.size][index // group.size] for index in range(len(self.questions))]


@contextmanager
def inference(trainer: Any) -> Iterator[None]:
    """Evaluation mode without gradients, left padding and a cache; all is as before afterwards, random state too."""
    model, config = trainer.model, trainer.model.config
    before = (model.training, config.use_cache, torch.random.get_rng_state())
    side = getattr(config, "tokenizer_padding_side", None)  # upstream's; a family is told its side with each batch
    model.eval()
    config.use_cache = True
    try:
        with torch.no_grad():
            if side is not None:
                config.tokenizer_padding_side = "left"
            yield
    finally:
        model.train(before[0])
        config.use_cache = before[1]
        if side is not None:
            config.tokenizer_padding_side = side
        torch.random.set_rng_state(before[2])


def with_folder(encoder: Any, folder: str | None) -> Any:
    """The encoder for records whose pictures lie in another folder."""
    return replace(encoder, image_folder=Path(folder)) if folder else encoder
