"""The language-model head and its loss on taught tokens, in chunks: no long text keeps its full logits.

The logits of a token are as wide as the vocabulary, in 16 bit and twice in fp32: 2,000 tokens of captions at 32,000
words are 0.9 GB. A chunk's logits are dropped after its loss and computed again for its gradient; the head is 2 % of a
7B model's work, so that costs under 1 % where a record is all text, and nothing where one chunk holds all.

    losses = token_losses(hidden, targets, model.lm_head, chunk=1024)
"""

from __future__ import annotations

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


def token_losses(hidden: torch.Tensor, targets: torch.Tensor, head: torch.nn.Module, chunk: int) -> torch.Tensor:
    """Cross entropy (fp32, M) of taught tokens from `hidden` (M x H) and `targets` (int64, M); `chunk` 0: all at once.

    Under ZeRO-3 all at once, too: ranks with other numbers of chunks would gather the head at other times, for ever.
    """
    if not 0 < chunk < len(targets) or any(hasattr(weight, "ds_id") for weight in head.parameters()):
        return _losses(hidden, targets, head)
    parts = zip(hidden.split(chunk), targets.split(chunk), strict=True)
    return torch.cat([checkpoint(_losses, *part, head, use_reentrant=False) for part in parts])


def _losses(hidden: torch.Tensor, targets: torch.Tensor, head: torch.nn.Module) -> torch.Tensor:
    return functional.cross_entropy(head(hidden).float(), targets, reduction="none")
