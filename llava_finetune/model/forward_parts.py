"""Out of memory in the forward pass of one rank: its batch goes on in parts, and no other rank notices.

Ranks cannot go back a step, because the others wait in a collective. But until the backward pass nothing has been
handed to them: the layers run again part by part, each part computed once more in the backward pass, so that the
activations of one part are held at a time. There is one backward pass, with the same loss and the same gradients.

    parts = ForwardParts(rank=1)
    hidden = parts.run(layers, embeddings, layout)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

from llava_finetune.data.layout import Layout
from llava_finetune.model.allocation import free_memory, halves, is_out_of_memory

Layers = Callable[[torch.Tensor, Layout], torch.Tensor]


class ForwardParts:
    """In how many parts a rank runs the layers on a batch without padding: one, until memory runs out."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.num_parts = 1

    def run(self, layers: Layers, embeddings: torch.Tensor, layout: Layout) -> torch.Tensor:
        """Hidden states, N x H, of embeddings, 1 x N x H. Raises the allocator's error if one example does not fit."""
        num_examples = len(layout.lengths)
        while True:
            try:
                if self.num_parts == 1:
                    return layers(embeddings, layout)
                parts = halves(range(num_examples), self.num_parts)
                return torch.cat([_run_again_in_backward(layers, embeddings, layout, part) for part in parts])
            except RuntimeError as error:
                if not is_out_of_memory(error) or self.num_parts >= num_examples:
                    raise
                message = str(error).splitlines()[0]
            # Out of the except block, so that no traceback holds what the failed pass had computed.
            free_memory()
            self.num_parts *= 2
            print(
                f"rank {self.rank}: out of memory in the forward pass ({message}). Its batch of {num_examples} goes on "
                f"in {self.num_parts} parts, each computed again in the backward pass: the same step, the same global "
                "batch and order; the other ranks go on as they are",
                flush=True,
            )


def _run_again_in_backward(layers: Layers, embeddings: torch.Tensor, layout: Layout, part: list[int]) -> torch.Tensor:
    first, last = part[0], part[-1] + 1
    start, end = sum(layout.lengths[:first]), sum(layout.lengths[:last])
    hidden: torch.Tensor = checkpoint(layers, embeddings[:, start:end], layout.part(first, last), use_reentrant=False)
    return hidden
