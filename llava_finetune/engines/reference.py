"""The model in torch, as training, evaluation and our server run it: what every engine is held against.

In fp32 it is the judge: two engines that compute in 16 bit may choose differently where the two likeliest tokens are
nearly equal, and only a wider dtype says how near they were.

    judge = TorchModel(load("runs/mine", dtype="fp32")); judge.answer(question, 16).text
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from data_prep.records.marks import IMAGE_TOKEN
from llava_finetune.convert.parity import forward
from llava_finetune.data.dataset import num_image_tokens, process_image
from llava_finetune.data.masking import prompt_ids
from llava_finetune.engines.answers import Answer, Question
from llava_finetune.evaluation.generate_answers import stop_ids

NUM_LIKELY = 20
NUM_RIVALS = 50
"""Among how many of the likeliest tokens the one that another engine took is looked for."""


@dataclass(frozen=True)
class TorchModel:
    """A loaded model that answers questions of one user's turn."""

    loaded: Any

    def ids(self, question: Question) -> list[int]:
        """The prompt's ids as training wrote them, -200 for a picture."""
        (turn,) = question.turns
        value = f"{IMAGE_TOKEN}\n" * len(turn.pictures) + turn.text
        return prompt_ids([{"from": "human", "value": value.strip()}], self.loaded.template, self.loaded.tokenizer)

    def pixels(self, question: Question) -> list[torch.Tensor]:
        """Pixel values of each picture, fp32."""
        config = self.loaded.model.config
        return [process_image(picture, self.loaded.image_processor, config) for picture in question.pictures]

    @torch.inference_mode()
    def answer(self, question: Question, max_new_tokens: int) -> Answer:
        """The greedy answer, one question at a time, and how likely its first tokens were."""
        loaded, ids = self.loaded, self.ids(question)
        images: Any = [each.to(loaded.device, loaded.dtype) for each in self.pixels(question)] or None
        if images and all(image.ndim == 3 for image in images):
            images = torch.stack(images)
        out = loaded.model.generate(
            torch.tensor([ids], device=loaded.device),
            images=images,
            image_sizes=[picture.size for picture in question.pictures],
            attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=loaded.device),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=stop_ids(loaded),
            pad_token_id=loaded.tokenizer.pad_token_id,
            output_logits=True,
            return_dict_in_generate=True,
        )
        likely = torch.log_softmax(out.logits[0][0].float(), -1).topk(NUM_LIKELY)
        first = dict(zip(likely.indices.tolist(), likely.values.tolist(), strict=True))
        new = tuple(out.sequences[0].tolist())
        config, tower = loaded.model.config, loaded.model.get_vision_tower()
        length = len(ids) + sum(num_image_tokens(config, tower, each.size) - 1 for each in question.pictures)
        return Answer(self.text_of(new), length, first, ids, new)

    def text_of(self, tokens: Sequence[int]) -> str:
        """An answer's text, its end tokens left out."""
        stops = set(stop_ids(self.loaded))
        kept = [token for token in tokens if token not in stops]
        return str(self.loaded.tokenizer.decode(kept, skip_special_tokens=True)).strip()

    def first(self, question: Question, after: Sequence[int] = ()) -> torch.Tensor:
        """Log-probabilities (vocabulary) of the token that follows the prompt and `after`."""
        run = forward(self.loaded, [*self.ids(question), *after], question.pictures)
        return torch.log_softmax(run.logits[-1], -1)

    def gap(self, question: Question, own: Answer, other: str) -> float:
        """By how much (in log-probability) this model prefers its own answer where the two part: 0 is a perfect tie.

        They part at the first of our tokens that the other text does not begin with; what the other took there is the
        likeliest token that it does begin with. Where none of the likely ones fits, the gap is at least the one to
        them.
        """
        at = next(
            (place for place in range(len(own.ids)) if not self._begins(other, own.ids[: place + 1])), len(own.ids) - 1
        )
        likely = self.first(question, own.ids[:at])
        stops = set(stop_ids(self.loaded))
        ends = self.text_of(own.ids[:at]) == other
        top = likely.topk(NUM_RIVALS).indices.tolist()
        rival = next(
            (
                token
                for token in top
                if token != own.ids[at] and (ends if token in stops else self._begins(other, [*own.ids[:at], token]))
            ),
            top[-1],
        )
        return float(likely[own.ids[at]] - likely[rival])

    def _begins(self, text: str, ids: Sequence[int]) -> bool:
        """Whether a text begins with these tokens; an end token begins nothing, half a character is left out."""
        if set(ids) & set(stop_ids(self.loaded)):
            return False
        decoded = str(self.loaded.tokenizer.decode(ids, skip_special_tokens=True))
        return text.startswith(decoded.rstrip("\N{REPLACEMENT CHARACTER}").lstrip())
