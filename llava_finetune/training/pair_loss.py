"""Direct preference optimisation: the loss of pairs, and what it shows of them.

The chosen answer is to become likelier than it was under the reference by more than the rejected one (Rafailov et al.
2023). Conservative: a share of the labels may be wrong (Mitchell 2023, "A note on DPO with noisy preferences").
Length-normalised: log-likelihoods per token (Lambert et al. 2024, Tulu 3), so that a longer answer is no larger change.

    loss, shown = pair_loss(policy, reference, counts, PairSettings(beta=0.1))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

CHUNK = 256
"""Tokens whose probabilities over the vocabulary exist at one time, twice in fp32."""


@dataclass(frozen=True)
class PairSettings:
    """`beta`: how far to go from the reference; `sft_weight`: of the chosen answers' own cross entropy, beside."""

    beta: float = 0.1
    label_smoothing: float = 0.0
    length_normalised: bool = False
    sft_weight: float = 0.0


def path_sums(losses: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Log-likelihood of each path (P) from the losses of its tokens (M), which stand path by path, `counts` each."""
    owner = torch.repeat_interleave(torch.arange(len(counts), device=losses.device), counts)
    return losses.new_zeros(len(counts)).index_add(0, owner, -losses)


def pair_loss(
    policy: torch.Tensor, reference: torch.Tensor, counts: torch.Tensor, settings: PairSettings
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of a batch, a mean over its pairs, and its numbers; log-likelihoods and token counts of 2 x pairs paths.

    The paths are chosen, rejected, chosen, rejected. `sft` is the cross entropy of all chosen tokens of the batch.
    """
    ratios = policy - reference
    if settings.length_normalised:
        ratios = ratios / counts
    rewards = settings.beta * ratios.view(-1, 2)
    margins = rewards[:, 0] - rewards[:, 1]
    smoothing = settings.label_smoothing
    preferred, flipped = functional.logsigmoid(margins), functional.logsigmoid(-margins)
    dpo = (-(1 - smoothing) * preferred - smoothing * flipped).mean()
    sft = -policy.view(-1, 2)[:, 0].sum() / counts.view(-1, 2)[:, 0].sum()
    shown = {
        "dpo_loss": dpo,
        "sft_loss": sft,
        "margin": margins.mean(),
        "margin_accuracy": (margins > 0).to(dpo.dtype).mean(),
        "chosen_reward": rewards[:, 0].mean(),
        "rejected_reward": rewards[:, 1].mean(),
    }
    return dpo + settings.sft_weight * sft, {name: value.detach() for name, value in shown.items()}


@torch.no_grad()
def mean_kl(hidden: torch.Tensor, reference: torch.Tensor, head: torch.nn.Module) -> torch.Tensor:
    """Mean over M tokens of KL(policy || reference), exact over the vocabulary, from hidden states M x H of both.

    Under ZeRO-3 all at once: ranks with other numbers of chunks would gather the head at other times, for ever.
    """
    whole = any(hasattr(weight, "ds_id") for weight in head.parameters())
    size = len(hidden) if whole else CHUNK
    total = torch.zeros((), device=hidden.device)
    for mine, other in zip(hidden.split(size), reference.split(size), strict=True):
        first, second = (functional.log_softmax(head(part).float(), -1) for part in (mine, other))
        total += functional.kl_div(second, first, reduction="sum", log_target=True)
    return total / len(hidden)
