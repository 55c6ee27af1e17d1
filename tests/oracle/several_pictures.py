"""Give upstream's trainer our dataset: upstream's own opens one picture per record; its model takes several."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import llava.train.train as upstream

from data_prep.records.record import read_records
from llava_finetune.data.collator import Collator
from llava_finetune.data.dataset import Encoder, RecordDataset


def _data_module(tokenizer: Any, data_args: Any) -> dict[str, Any]:
    import torch

    collator = Collator(tokenizer.pad_token_id, torch.zeros(3, 56, 56), tokenizer.model_max_length)

    def collate(examples: Any) -> dict[str, Any]:
        batch = collator(examples)
        return {name: batch[name] for name in ("input_ids", "labels", "attention_mask", "images", "image_sizes")}

    template = sys.argv[sys.argv.index("--version") + 1]
    encoder = Encoder(
        tokenizer, template, data_args.image_processor, data_args, Path(data_args.image_folder), None, 2048
    )
    records = read_records(Path(data_args.data_path))
    return {"train_dataset": RecordDataset(records, encoder), "eval_dataset": None, "data_collator": collate}


upstream.make_supervised_data_module = _data_module
