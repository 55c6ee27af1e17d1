"""Questions asked of a family of transformers' own classes: its own prompts, pictures and generation.

asker = FamilyAsker(loaded, questions, Path("pictures"), mode="seen"); asker.generate([0, 1], max_new_tokens=64)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from data_prep.records.record import open_image, resolve_image
from llava_finetune.errors import UserError
from llava_finetune.model.families.encoder import Encoded, FamilyEncoder


class FamilyAsker:
    """Prompts of questions, and the ids of greedy answers to some of them. `mode`: seen or blank pictures.

    A blank picture has the mean colour of what the tower was trained on and the real one's size: as many tokens.
    """

    def __init__(self, loaded: Any, questions: Sequence[Any], folder: Path | None, mode: str) -> None:
        self.loaded, self.questions, self.folder, self.mode = loaded, questions, folder, mode
        self.encoder = FamilyEncoder(loaded.family, folder)

    def cost(self, index: int) -> int:
        """What decides which questions are asked together: characters, and pictures before all."""
        question = self.questions[index]
        return len(question.asked) + 100_000 * len(question.images)

    def generate(self, indices: Sequence[int], max_new_tokens: int) -> list[list[int]]:
        """New token ids for each of these questions."""
        family, model = self.loaded.family, self.loaded.model
        prompts = [self._prompt(self.questions[index]) for index in indices]
        batch = family.batch([torch.tensor(one.input_ids) for one in prompts], [one.seen for one in prompts], "left")
        moved = {name: value.to(self.loaded.device) for name, value in batch.items()}
        out = model.generate(
            **moved,
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            eos_token_id=family.stop_ids,
            pad_token_id=family.tokenizer.pad_token_id,
            use_cache=True,
        )
        return [row.tolist() for row in out[:, batch["input_ids"].shape[1] :]]

    def text(self, tokens: Sequence[int]) -> str:
        """An answer's text."""
        return str(self.loaded.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    def _prompt(self, question: Any) -> Encoded:
        return self.encoder.prompt(question.asked, [self._picture(name) for name in question.images])

    def _picture(self, name: str) -> Image.Image:
        if self.folder is None:
            raise UserError(f"{name}: the questions have pictures, and no image folder is given")
        image = open_image(resolve_image(self.folder, name))
        if self.mode != "blank":
            return image
        mean = self.loaded.family.image_processor.image_mean
        return Image.new("RGB", image.size, tuple(min(255, int(value * 255) + 1) for value in mean))
