"""A batch of answers that grow together: rows join and leave between two steps.

Why not `generate`: a request that comes while others are answered joins at the next token instead of waiting for the
whole batch, each row has its own temperature, length and stop texts, and an abandoned answer stops costing at once.
Rows are left padded; keys carry their own positions, so padding a cache on the left changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from llava_finetune.serve.prompts import Prompt


class Batch:
    """Key-value cache, attention mask and next positions of the rows under way."""

    def __init__(self, loaded: Any) -> None:
        self.loaded = loaded
        self.cache: Any = None
        self.mask = torch.zeros(0, 0, dtype=torch.long, device=loaded.device)
        self.positions = torch.zeros(0, dtype=torch.long, device=loaded.device)

    def __len__(self) -> int:
        return int(self.mask.shape[0])

    @torch.inference_mode()
    def join(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        """Read new prompts; they become the last rows. Returns their next-token logits (prompts x vocabulary, fp32)."""
        from transformers import DynamicCache

        inputs, mask = self._read(prompts)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = DynamicCache()
        logits = self._forward(cache, mask, positions, **inputs)
        self._append(cache, mask)
        self.positions = torch.cat([self.positions, positions[:, -1] + 1])
        return logits

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Add one token to every row. Returns the next logits (rows x vocabulary, fp32)."""
        ids = torch.tensor(list(tokens), device=self.loaded.device)[:, None]
        self.mask = torch.cat([self.mask, torch.ones_like(ids)], 1)
        logits = self._forward(self.cache, self.mask, self.positions[:, None], input_ids=ids)
        self.positions = self.positions + 1
        return logits

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, and the columns that only they needed."""
        if len(rows) == len(self):
            return
        index = torch.tensor(list(rows), dtype=torch.long, device=self.loaded.device)
        self.mask, self.positions = self.mask[index], self.positions[index]
        if not rows:
            self.cache, self.mask = None, self.mask[:, :0]
            return
        first = int(self.mask.any(0).nonzero()[0])
        self.mask = self.mask[:, first:]
        self.cache = _rebuilt(
            [(keys[index][:, :, first:], values[index][:, :, first:]) for keys, values in _layers(self.cache)]
        )

    def _forward(self, cache: Any, mask: torch.Tensor, positions: torch.Tensor, **inputs: Any) -> torch.Tensor:
        model = self.loaded.model
        if self.loaded.family is not None:
            model = model.get_base_model() if hasattr(model, "get_base_model") else model
        elif cache is None and getattr(model.config, "sliding_window", None):
            from transformers import DynamicCache

            cache = DynamicCache()  # the model's own would drop keys, each row's at another place
        out = (model.get_model() if self.loaded.family is None else model.model)(
            attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, **inputs
        )
        head = model.lm_head if self.loaded.family is not None else model.answer_head
        return head(out.last_hidden_state[:, -1]).float()  # type: ignore[no-any-return]

    def _read(self, prompts: Sequence[Prompt]) -> tuple[dict[str, Any], torch.Tensor]:
        """What the model reads of new prompts, left padded, and the mask (rows x length)."""
        if self.loaded.family is None:
            embeds, mask = self._embed(prompts)
            return {"inputs_embeds": embeds}, mask
        ids, seen = [torch.tensor(prompt.input_ids) for prompt in prompts], [prompt.seen for prompt in prompts]
        batch = self.loaded.family.batch(ids, seen, "left")
        moved = {name: value.to(self.loaded.device) for name, value in batch.items()}
        return moved, moved.pop("attention_mask")

    def _embed(self, prompts: Sequence[Prompt]) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings of left-padded prompts with their pictures in place, and the mask (both rows x length)."""
        loaded = self.loaded
        width = max(len(prompt.input_ids) for prompt in prompts)
        padding = [width - len(prompt.input_ids) for prompt in prompts]
        pad = loaded.tokenizer.pad_token_id or 0
        rows = [[pad] * count + prompt.input_ids for count, prompt in zip(padding, prompts, strict=True)]
        ids = torch.tensor(rows, device=loaded.device)
        mask = torch.tensor([[0] * count + [1] * (width - count) for count in padding], device=loaded.device)
        pictures = [value for prompt in prompts for value in prompt.pixel_values]
        if not pictures:
            return loaded.model.get_model().embed_tokens(ids), mask
        images, sizes = _with_blanks(prompts, pictures[0])
        images = [value.to(loaded.device, loaded.dtype) for value in images]
        if all(value.ndim == 3 for value in images):
            images = torch.stack(images)
        _, _, mask, _, embeds, _ = loaded.model.prepare_inputs_labels_for_multimodal(
            ids, None, mask, None, None, images, sizes
        )
        return embeds, mask.long()

    def _append(self, cache: Any, mask: torch.Tensor) -> None:
        if not len(self):
            self.cache, self.mask = cache, mask
            return
        width = max(self.mask.shape[1], mask.shape[1])
        pairs = []
        for (keys, values), (new_keys, new_values) in zip(_layers(self.cache), _layers(cache), strict=True):
            pairs.append(
                (
                    torch.cat([_widen(keys, width), _widen(new_keys, width)]),
                    torch.cat([_widen(values, width), _widen(new_values, width)]),
                )
            )
        self.cache = _rebuilt(pairs)
        pad = torch.nn.functional.pad
        self.mask = torch.cat([pad(part, (width - part.shape[1], 0)) for part in (self.mask, mask)])


def _with_blanks(prompts: Sequence[Prompt], like: torch.Tensor) -> tuple[Any, list[tuple[int, int]]]:
    """Pictures in order; a prompt without one gets a blank, which upstream's splice takes and adds no token for.

    An anyres blank is one view: several would have to fit a grid.
    """
    blank = torch.zeros_like(like[:1] if like.ndim == 4 else like)
    images: list[torch.Tensor] = []
    sizes: list[tuple[int, int]] = []
    for prompt in prompts:
        images += prompt.pixel_values or [blank]
        sizes += prompt.sizes or [(1, 1)]
    return images, sizes


def _layers(cache: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(layer.keys, layer.values) for layer in cache.layers]


def _rebuilt(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Any:
    from transformers import DynamicCache

    cache = DynamicCache()
    for index, (keys, values) in enumerate(pairs):
        cache.update(keys, values, index)
    return cache


def _widen(states: torch.Tensor, width: int) -> torch.Tensor:
    """Pad keys or values (rows, heads, length, channels) on the left to `width`."""
    return torch.nn.functional.pad(states, (0, 0, width - states.shape[2], 0))
