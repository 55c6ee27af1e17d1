"""When a training is examined, and what follows: rows, predictions kept, best checkpoint, early stop, words, report.

At step 0 (the baseline), then every `--eval_steps` or at the end of each epoch, and after the last step.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from data_prep.files import sha256_of
from llava_finetune.errors import UserError
from llava_finetune.evaluation import metrics
from llava_finetune.evaluation.scoring import write_predictions
from llava_finetune.saved.manifest import write_json
from llava_finetune.training.evaluator import Evaluator
from llava_finetune.training.forgetting_gauge import ForgettingGauge
from llava_finetune.training.watch import overfitting

MORE = {name: name for name in ("vqa_accuracy", "token_f1", "box_iou", "box_accuracy")}
GAUGED = {"yes_share": "says yes", "false_yes": "false yes"}
"""What is told beside loss and exact match: of ordinary questions, and of those about what is not there."""


class Examiner(TrainerCallback):
    """Runs the evaluators at their moments. `every` steps, or 0 for each epoch."""

    def __init__(
        self, trainer: Any, evaluators: Sequence[Evaluator], every: int, metric: str | None, patience: int, log: Any
    ) -> None:
        self.trainer, self.evaluators, self.every, self.log = trainer, evaluators, every, log
        self.metric, self.patience = metric, patience
        self.output = Path(trainer.args.output_dir)
        self.seconds = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        if state.global_step == 0:
            self.examine(state)
        elif self._is_due(state) and not any(
            row["step"] == state.global_step and "eval_loss" in row for row in state.log_history
        ):
            # The signal that ended the run came at a step that is evaluated: it left no time for that.
            self.judge(state, control, self.examine(state))

    def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        if self._is_due(state) or state.global_step >= state.max_steps:
            control.should_evaluate = True

    def _is_due(self, state: Any) -> bool:
        # A whole epoch, told before its end so that the checkpoint of this step knows the result.
        return bool(state.global_step % self.every == 0 if self.every else float(state.epoch).is_integer())

    def on_train_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        self.log.say(f"evaluation took {self.seconds:.1f} s of this run")

    def examine(self, state: Any) -> dict[str, float]:
        """Evaluate now: rows to log.jsonl, predictions and scores to their files. Returns all numbers."""
        numbers: dict[str, float] = {}
        for evaluator in self.evaluators:
            row, predictions = evaluator.run(self.trainer, self.trainer.group)
            numbers |= row
            self.seconds += row[f"{evaluator.name}_seconds"]
            if self.trainer.is_world_process_zero():
                self._keep(evaluator, state.global_step, predictions)
                self._tell(evaluator, state.global_step, row)
                if isinstance(evaluator, ForgettingGauge):
                    self._tell_kept(evaluator, row, state)
                if evaluator.name == "eval" and state.global_step == 0:
                    self._keep_prior(predictions)
        if self.metric and self.metric not in numbers:
            raise UserError(
                f"--metric_for_best_model {self.metric}: not among the numbers of an evaluation: "
                f"{', '.join(sorted(numbers))}"
            )
        state.log_history.append({"step": state.global_step, **numbers})
        self.log.write({"step": state.global_step, "epoch": state.epoch, **numbers})
        warning = overfitting(state.log_history)
        if warning:
            self.log.say(f"step {state.global_step}: {warning}")
            self.log.write({"step": state.global_step, "warning": warning})
        if self.trainer.is_world_process_zero():
            refresh_report(self.output)
        return numbers

    def judge(self, state: Any, control: Any, numbers: Mapping[str, float]) -> bool:
        """Note a new best, which is saved, and stop the run when `patience` evaluations brought none."""
        if not self.metric:
            return False
        value, lower = numbers[self.metric], lower_is_better(self.metric)
        best = state.best_metric
        is_better = best is None or (value < best if lower else value > best)
        if is_better:
            state.best_metric = value
            self.trainer.take_as_best(state.global_step)
            control.should_save = True
            return True
        later = [row for row in state.log_history if self.metric in row and row["step"] > (self.trainer.best_step or 0)]
        if self.patience and len(later) >= self.patience:
            self.log.say(
                f"step {state.global_step}: {self.metric} has not been better than {best:.4f} (step "
                f"{self.trainer.best_step}) for {len(later)} evaluations; stopping early"
            )
            self.trainer.end_early()
            control.should_training_stop = control.should_save = True
        return False

    def _keep(self, evaluator: Evaluator, step: int, predictions: list[dict[str, Any]]) -> None:
        name = f"{evaluator.name}-{step}"
        write_predictions(self.output / f"predictions-{name}.jsonl", predictions)
        folder = evaluator.encoder.image_folder
        scores = {
            **metrics.score(predictions),
            "step": step,
            "image_folder": str(folder) if folder else None,
            # The weights of this step: the base's, as the run's data and settings have changed them by then.
            "base_sha256": self.trainer.plan.settings.get("base_sha256"),
            "train_sha256": self.trainer.plan.settings.get("data_sha256"),
            "data_sha256": sha256_of(evaluator.path),
        }
        write_json(self.output / f"scores-{name}.json", scores)
        if evaluator.name == "eval":
            for tracker in self.log.trackers:
                tracker.log_samples(step, predictions, folder)

    def _keep_prior(self, predictions: list[dict[str, Any]]) -> None:
        """What guessing from the training file reaches without looking: no score says anything below it."""
        dataset = self.trainer.train_dataset
        records = getattr(dataset, "main", dataset).records
        try:
            prior = metrics.text_prior(records, predictions)
        except ValueError as error:  # pairs whose chosen answer stands outside of their conversation
            self.log.say(f"no text-only prior: {error}")
            return
        scores = metrics.score(prior)
        write_predictions(self.output / "predictions-text_prior.jsonl", prior)
        write_json(self.output / "scores-text_prior.json", scores)
        self.log.say(
            f"text-only prior: exact match {scores['exact_match']:.2%}, the commonest answer that training gives to "
            "each question"
        )

    def _tell(self, evaluator: Evaluator, step: int, row: Mapping[str, float]) -> None:
        name = evaluator.name
        shown = GAUGED if name == "hallucination" else MORE
        more = "".join(f"  {text} {row[f'{name}_{key}']:.2%}" for key, text in shown.items() if f"{name}_{key}" in row)
        self.log.say(
            f"{name} at step {step}: loss {row[f'{name}_loss']:.4f}  "
            f"exact match {row[f'{name}_exact_match']:.2%}{more}  of {row[f'{name}_count']:.0f} questions "
            f"in {row[f'{name}_seconds']:.1f} s"
        )
        if cut := int(row[f"{name}_num_truncated"]):
            self.log.say(
                f"WARNING: {cut} of {row[f'{name}_count']:.0f} answers were cut off at --eval_max_new_tokens "
                f"{evaluator.settings.max_new_tokens}: they count as they are"
            )
        if cut := int(row[f"{name}_num_cut"]):
            self.log.say(
                f"WARNING: {cut} records of {evaluator.path} are longer than --model_max_length and lost their end: "
                "the loss is of the rest"
            )

    def _tell_kept(self, gauge: ForgettingGauge, row: Mapping[str, float], state: Any) -> None:
        """What of the base's knowledge is left, and at the run's end what to do where it is surely less."""
        if gauge.kept is None:
            return
        own = row.get(f"{gauge.name}_own_perplexity")
        drift = f"; perplexity of the base's own answers {own:.3g}" if own is not None else ""
        if state.global_step == 0:
            kept = gauge.kept
            self.log.say(f"{gauge.name}: the base answers {kept.num_known} of {kept.count} general questions{drift}")
            return
        self.log.say(f"{gauge.name}: {gauge.kept.in_words()}{drift}")
        if state.global_step >= state.max_steps and (advice := gauge.kept.advice()):
            self.log.say(f"WARNING: {advice}")
            self.log.write({"step": state.global_step, "warning": advice})


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value of this number is the better one."""
    return metric.endswith(
        ("loss", "seconds", "num_truncated", "num_cut", "box_unread", "false_yes", "false_no", "unclear", "perplexity")
    )


def refresh_report(output: Path, curves: bool = False, say: Callable[[str], None] | None = None) -> None:
    """Rewrite report.html; when it cannot be written the run says so and goes on."""
    from llava_finetune.report import write_report

    try:
        write_report(output, curves=curves)
    except Exception as error:  # whatever a page may stumble on, the weights matter more
        print(f"WARNING: {output}/report.html was not written: {type(error).__name__}: {error}", file=sys.stderr)
