"""Move the tensors of a model from one layout into the other, shard by shard, and account for every one of them.

Why: the largest thing in memory is one tensor, and nothing may be lost or invented on the way: a tensor is written, or
skipped for a named reason, or the conversion stops.

    tally = move_tensors(weight_files(folder), route, {"model": ShardWriter(out)}, rows=None)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from llava_finetune.errors import UserError
from llava_finetune.saved import tensor_names
from llava_finetune.saved.shards import ShardWriter, StoredTensor, open_shard
from llava_finetune.saved.tensor_names import Name


@dataclass(frozen=True)
class Target:
    """Where a tensor goes: the writer's key and the name it gets there."""

    writer: str
    name: str


@dataclass(frozen=True)
class Skip:
    """Why a tensor is left behind."""

    reason: str


Route = Callable[[str], "Target | Skip"]


@dataclass
class Tally:
    """What was written (by writer) and what was skipped (by reason)."""

    written: dict[str, set[str]] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)

    def line(self) -> str:
        """`291 tensors written, 1 skipped (computed buffer 1)`."""
        count = sum(map(len, self.written.values()))
        reasons = ", ".join(f"{reason} {number}" for reason, number in sorted(self.skipped.items()))
        return f"{count} tensors written, {self.skipped.total()} skipped" + (f" ({reasons})" if reasons else "")


def route_with(parse: Callable[[str], Name | None], target: Callable[[Name], Target | Skip], source: Path) -> Route:
    """A route from a parser of names; a name that the parser does not know stops the conversion."""

    def route(name: str) -> Target | Skip:
        if tensor_names.is_buffer(name):
            return Skip("computed buffer")
        parsed = parse(name)
        if parsed is None:
            raise UserError(
                f"{source}: tensor {name} has no place in the other layout; is this a LLaVA of this family?"
            )
        return target(parsed)

    return route


def move_tensors(
    files: Sequence[Path],
    route: Route,
    writers: Mapping[str, ShardWriter],
    tally: Tally,
    rows: int | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Move all tensors of `files` through `route`; `rows` resizes the vocabulary (see `resize_rows`).

    `dtype`: what floating-point tensors are converted to; None leaves them as they are.
    """
    for path in files:
        with open_shard(path) as tensors:
            shards: dict[str, list[StoredTensor]] = {key: [] for key in writers}
            for tensor in tensors:
                target = route(tensor.name)
                if isinstance(target, Skip):
                    tally.skipped[target.reason] += 1
                    continue
                shards[target.writer].append(_converted(_renamed(tensor, target.name, rows), dtype))
                tally.written.setdefault(target.writer, set()).add(target.name)
            for key, shard in shards.items():
                writers[key].add_shard(shard)


def _renamed(tensor: StoredTensor, name: str, rows: int | None) -> StoredTensor:
    if rows is None or not name.endswith(("embed_tokens.weight", "lm_head.weight")) or tensor.shape[0] == rows:
        return StoredTensor(name, tensor.shape, tensor.dtype, tensor.load)
    return StoredTensor(name, (rows, *tensor.shape[1:]), tensor.dtype, lambda: resize_rows(tensor.load(), rows))


def _converted(tensor: StoredTensor, dtype: torch.dtype | None) -> StoredTensor:
    if dtype is None or tensor.dtype == dtype or not tensor.dtype.is_floating_point:
        return tensor
    return StoredTensor(tensor.name, tensor.shape, dtype, lambda: tensor.load().to(dtype))


def resize_rows(weight: torch.Tensor, rows: int) -> torch.Tensor:
    """Cut or lengthen a (vocabulary, hidden) matrix to `rows`.

    New rows are the mean of the old ones: a logit of such a row is the mean of all logits, so greedy decoding can never
    choose a token that was not there in training.
    """
    if weight.shape[0] >= rows:
        return weight[:rows].contiguous()
    mean = weight.to(torch.float32).mean(0, keepdim=True).to(weight.dtype)
    return torch.cat([weight, mean.expand(rows - weight.shape[0], -1)])


def check_complete(written: set[str], expected: set[str], parse: Callable[[str], Name | None], where: Path) -> None:
    """Raise UserError unless the written names are exactly the expected ones (compared as neutral names)."""
    have = {parse(name) for name in written}
    want = {parse(name) for name in expected if not tensor_names.is_buffer(name)}
    missing, extra = want - have, have - want
    if missing or extra:
        raise UserError(
            f"{where}: tensors do not add up: {len(missing)} missing {_some(missing)}, {len(extra)} unexpected "
            f"{_some(extra)}; nothing was written"
        )


def _some(items: set[Name | None]) -> str:
    shown = sorted(f"{item.part}.{item.rest}" for item in items if item is not None)[:3]
    return f"({', '.join(shown)}{', ...' if len(items) > 3 else ''})" if items else ""


def expected_names(config: Mapping[str, object]) -> set[str]:
    """Names in transformers' own model of a llava-hf config, built without memory; a tied head is left out."""
    import transformers

    cls = getattr(transformers, str(config["architectures"][0]))  # type: ignore[index]
    with torch.device("meta"):
        model = cls(cls.config_class.from_dict(dict(config)))
    tied = bool(config.get("tie_word_embeddings"))
    return {name for name in model.state_dict() if not (tied and name.endswith("lm_head.weight"))}
