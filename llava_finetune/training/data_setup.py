"""The data of a run: its records and the general ones beside them as examples, and what makes batches of them.

data = load_data(run, built, records)
batch = data.collator([data.dataset[0], data.dataset[1]])
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llava_finetune.config.augmenting import KINDS, asked_kinds
from llava_finetune.config.contradictions import TURNS
from llava_finetune.data.augmentation import Augmentation
from llava_finetune.data.collator import Collator
from llava_finetune.data.dataset import Encoder, RecordDataset
from llava_finetune.data.pairs import pair_encoder
from llava_finetune.data.replay import mixed
from llava_finetune.data.unreadable_pictures import WithSubstitutes
from llava_finetune.data.varied_records import VariedRecords
from llava_finetune.model.families.encoder import FamilyCollator, FamilyEncoder
from llava_finetune.planning.picture_batches import most_pictures
from llava_finetune.training.beginning import Run
from llava_finetune.training.evaluator import EvaluationSettings, Evaluator, with_folder
from llava_finetune.training.forgetting_gauge import ForgettingGauge
from llava_finetune.training.model_setup import Built

LOOKED_AT = 2000
"""Records of which it is said how many --augment may change."""


@dataclass(frozen=True)
class RunData:
    """What is trained on, how it becomes batches, and what the run is examined with."""

    dataset: WithSubstitutes
    collator: Collator | FamilyCollator
    evaluators: Sequence[Evaluator]


def load_data(run: Run, built: Built, records: Any) -> RunData:
    """The run's records as examples, general ones mixed in, and its held-out questions."""
    data, training = run.arguments.data, run.arguments.training
    encoder, collator = _readers(run, built)
    dataset: Any = _own_records(run, records, pair_encoder(encoder) if training.dpo else encoder)
    if data.replay:
        dataset = mixed(dataset, data.replay, with_folder(encoder, data.replay_image_folder), training.seed)
        run.say(f"replay: {len(dataset) - len(records)} general records beside {len(records)} ({data.replay})")
    if training.share_pictures:
        keys = dataset.picture_keys
        pictures = len({key for key in keys if key is not None}) + keys.count(None)
        run.say(
            f"--share_pictures: {len(keys):,} records, {pictures:,} different pictures or texts; {training.sharing} "
            f"records that stand together hold up to {most_pictures(keys, training.sharing)} of them"
        )
    return RunData(WithSubstitutes(dataset), collator, _evaluators(run, encoder, collator))


def _own_records(run: Run, records: Any, encoder: Any) -> RecordDataset:
    """The run's records as examples, varied from epoch to epoch where that is asked for; says how many can be."""
    by_length, asked = run.arguments.training.group_by_real_length, run.arguments.data.augment
    kinds = asked_kinds(asked)
    if not kinds:
        return RecordDataset(records, encoder, by_length)
    augmentation = Augmentation(kinds, run.arguments.training.seed)
    looked_at = min(len(records), LOOKED_AT)
    reach = augmentation.reach(records[index] for index in range(looked_at))
    told = ", ".join(f"{kind} {reach[kind]}" for kind in KINDS if kind in kinds)
    run.say(f"augmentation, of {looked_at} records as their words allow: {told}")
    return VariedRecords(records, encoder, by_length, augmentation)


def _readers(run: Run, built: Built) -> tuple[Any, Any]:
    """What makes examples of records, and batches of examples: LLaVA's or the family's."""
    data, max_length = run.arguments.data, built.tokenizer.model_max_length
    folder = Path(data.image_folder) if data.image_folder else None
    independent = TURNS[data.independent_turns.lower()]
    if built.family is not None:
        return FamilyEncoder(built.family, folder, max_length, independent), FamilyCollator(built.family, max_length)
    tower = built.tower
    encoder = Encoder(
        built.tokenizer,
        built.template,
        tower.image_processor,
        built.model.config,
        folder,
        tower,
        max_length,
        independent,
        built.cache,
    )
    size = tower.config.image_size
    blank, shared = torch.zeros(3, size, size), run.arguments.training.share_pictures
    return encoder, Collator(built.tokenizer.pad_token_id, blank, max_length, built.unpadded, shared)


def _evaluators(run: Run, encoder: Any, collator: Any) -> Sequence[Evaluator]:
    """Held-out questions and, beside them, general ones; none where nothing is held out."""
    data, training = run.arguments.data, run.arguments.training
    if not data.eval_data_path:
        return ()
    how = EvaluationSettings(data.eval_limit, training.per_device_eval_batch_size, data.eval_max_new_tokens)
    encoder = dataclasses.replace(encoder, cache=None)  # answers are generated from pixels
    files = [
        ("eval", data.eval_data_path, data.eval_image_folder),
        ("probe", data.probe_data_path, data.probe_image_folder),
        ("hallucination", data.hallucination_data_path, data.hallucination_image_folder),
    ]
    return [
        (ForgettingGauge if name == "probe" else Evaluator)(
            name, Path(path), with_folder(encoder, folder), collator, encoder.template, how
        )
        for name, path, folder in files
        if path
    ]
