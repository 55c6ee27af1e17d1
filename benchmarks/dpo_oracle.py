"""Our DPO loss against TRL's DPOTrainer on the same batches of pictures, pairs and weights, in fp32.

TRL is no dependency of the project: install it beside it, where it may bring what it likes, and run this there.

    pip install --no-deps trl==1.0.0
    python -m benchmarks.dpo_oracle

TRL computes the loss from logits of padded rows, each answer a row; ours from branches behind one prompt. The model is
a tiny random LLaVA with a random adapter; TRL sees it through a wrapper that leaves out the logits of the pictures.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image

from data_prep.records.marks import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava_finetune.data.collator import Collator, model_inputs
from llava_finetune.data.dataset import Encoder, RecordDataset
from llava_finetune.data.pairs import PairCollator, pair_encoder
from llava_finetune.kernels.unpadded_attention import unpad_attention
from llava_finetune.model.loading import Loaded, load
from llava_finetune.model.modeling import ForwardSettings
from llava_finetune.training.pair_loss import PairSettings, pair_loss, path_sums

NUM_PAIRS = 4
WORDS = ("red", "a dark blue square", "nothing at all", "two", "it is green and it is round", "yes", "no", "a star")


def main() -> int:
    """Print both losses, and the largest difference: relative for the losses, absolute for the margins of rewards."""
    from tests.tiny import make_tiny_llava

    folder = Path(tempfile.mkdtemp())
    loaded = load(make_tiny_llava(folder / "model"), dtype="fp32")
    loaded.model.config.tokenizer_padding_side = "right"
    model = _adapted(loaded)
    worst = 0.0
    for batch_number in range(3):
        records = _records(folder, batch_number)
        for settings, types, weights in (
            (PairSettings(0.1), ["sigmoid"], [1.0]),
            (PairSettings(0.5, sft_weight=0.3), ["sigmoid", "sft"], [1.0, 0.3]),
        ):
            ours, shown = _ours(model, loaded, records, folder, settings)
            theirs, metrics = _trls(model, loaded, records, folder, settings.beta, types, weights)
            margin = metrics["rewards/margins"][0]
            # A margin near 0 has no relative error worth a name: it is a difference of two large log-likelihoods.
            worst = max(worst, abs(ours - theirs) / abs(theirs), abs(float(shown["margin"]) - margin))
            print(f"batch {batch_number} {'+'.join(types):<12} ours {ours:.7f} TRL {theirs:.7f} margin {margin:.6f}")
    print(json.dumps({"largest_difference": worst}))
    return int(worst > 1e-4)


def _adapted(loaded: Loaded) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    targets = r"model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
    model = get_peft_model(loaded.model, LoraConfig(r=8, lora_alpha=16, target_modules=targets))
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.05)
    return model.train()


def _records(folder: Path, number: int) -> list[dict[str, Any]]:
    made = []
    for place in range(NUM_PAIRS):
        name = f"{number}-{place}.png"
        Image.new("RGB", (40 + 9 * place, 56), (60 * place % 256, 90 * number, 120)).save(folder / name)
        chosen, rejected = WORDS[(place + number) % 8], WORDS[(3 * place + number + 1) % 8]
        turns = [{"from": "human", "value": f"<image>\nwhat is it, {'please ' * place}?"}]
        made.append({"id": name, "image": name, "conversations": turns, "chosen": chosen, "rejected": rejected})
    return made


def _encoder(loaded: Loaded, folder: Path) -> Encoder:
    base = loaded.model
    return Encoder(
        loaded.tokenizer, loaded.template, loaded.image_processor, base.config, folder, base.get_vision_tower()
    )


def _ours(
    model: Any, loaded: Loaded, records: list[dict[str, Any]], folder: Path, settings: PairSettings
) -> tuple[float, dict[str, torch.Tensor]]:
    base = loaded.model
    unpad_attention(base.config)
    base.go_forward_by(ForwardSettings(keep_tokens=True))
    dataset = RecordDataset(records, pair_encoder(_encoder(loaded, folder)))
    side = base.get_vision_tower().config.image_size
    collator = Collator(loaded.tokenizer.pad_token_id, torch.zeros(3, side, side), unpadded=True)
    batch = PairCollator(collator, None)([dataset[index] for index in range(len(records))])
    counts = batch["path_counts"]
    inputs = model_inputs(batch)
    with torch.no_grad():
        with model.disable_adapter():
            before = path_sums(model(**inputs)["token_losses"], counts)
        now = path_sums(model(**inputs)["token_losses"], counts)
    loss, shown = pair_loss(now, before, counts, settings)
    return float(loss), shown


class ForTrl(torch.nn.Module):
    """A model whose logits stand at the places of `input_ids`: those of a picture's features but its last go."""

    def __init__(self, model: Any, batch: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.images, self.sizes = model, batch["images"], batch["image_sizes"]
        self.marks = batch["input_ids"] < 0

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool = False) -> Any:
        """As a language model's forward; rows have one picture each."""
        base = self.model.get_base_model()
        input_ids = input_ids.masked_fill(self.marks, IMAGE_TOKEN_INDEX)
        _, positions, mask, _, embeddings, _ = base.prepare_inputs_labels_for_multimodal(
            input_ids, None, attention_mask.bool(), None, None, self.images, self.sizes
        )
        hidden = base.get_model()(
            inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        added = base.get_vision_tower().num_patches - 1
        rows = []
        for row, states in zip(input_ids, hidden, strict=True):
            place = int((row < 0).nonzero()[0])
            rows.append(states[[index + (added if index >= place else 0) for index in range(len(row))]])
        return SimpleNamespace(logits=base.lm_head(torch.stack(rows)).float())


def _trls(
    model: Any, loaded: Loaded, records: list[dict[str, Any]], folder: Path, beta: float, types: list[str],
    weights: list[float],
) -> tuple[float, dict[str, Any]]:  # fmt: skip
    """TRL's own _compute_loss on rows padded as its collator pads them: all chosen, then all rejected."""
    from trl.trainer.dpo_trainer import DPOTrainer

    examples = []
    for key in ("chosen", "rejected"):
        turns = [[*one["conversations"], {"from": "gpt", "value": one[key]}] for one in records]
        rows = [{**one, "conversations": some} for one, some in zip(records, turns, strict=True)]
        dataset = RecordDataset(rows, _encoder(loaded, folder))
        examples += [dataset[index] for index in range(len(rows))]
    side = loaded.model.get_vision_tower().config.image_size
    batch = Collator(loaded.tokenizer.pad_token_id, torch.zeros(3, side, side))(examples)
    wrapped = ForTrl(model, batch)
    same = SimpleNamespace(
        device="cpu", gather=lambda value: value, gather_for_metrics=lambda value: value, unwrap_model=lambda one: one
    )
    trainer: Any = SimpleNamespace(
        model=wrapped, ref_model=_Reference(wrapped, model), accelerator=same, ld_alpha=None,
        precompute_ref_logps=False, args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        f_divergence_type="reverse_kl", loss_types=types,
        loss_weights=weights, beta=beta, label_smoothing=0.0, use_weighting=False, _total_train_tokens=0,
        _metrics={"train": defaultdict(list)},
    )  # fmt: skip
    inputs = {
        # TRL gathers logits by these: a picture's mark is no row of the vocabulary.
        "input_ids": batch["input_ids"].clamp(min=0),
        "attention_mask": batch["attention_mask"].long(),
        "completion_mask": (batch["labels"] != IGNORE_INDEX).long(),
    }
    wrapped.is_gradient_checkpointing = False
    with torch.no_grad():
        loss = DPOTrainer._compute_loss(trainer, wrapped, inputs, False)
    return float(loss), trainer._metrics["train"]


@dataclasses.dataclass(frozen=True)
class _Reference:
    """The model with its adapter off, called as TRL calls a reference model."""

    wrapped: ForTrl
    model: Any

    def __call__(self, **inputs: Any) -> Any:
        with self.model.disable_adapter():
            return self.wrapped(**inputs)


if __name__ == "__main__":
    raise SystemExit(main())
