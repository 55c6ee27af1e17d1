"""Batches without padding: where every text token and picture feature goes is worked out before the step, on the CPU.

Upstream splices features in Python loops over samples that wait for the device at each `<image>`, pads every sample to
the longest, and runs all layers on the padding. Here the collator lists rows of one table, [text embeddings; picture
features]; the model gathers them in one call and runs its layers on real tokens only. Attention is the one place where
samples are kept apart. The loss is the same; upstream's function is the oracle of the tests.

    layout = lay_out(examples, max_length=2048)
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from llava_finetune.errors import UserError
from llava_finetune.masking import IGNORE_INDEX

IMAGE_TOKEN_INDEX = -200
ATTENTION = "unpadded_"


def unique_pictures(examples: Sequence[Mapping[str, Any]]) -> tuple[list[torch.Tensor], list[Any], list[list[int]]]:
    """Each different picture of a batch once: pixels, sizes, and for every example the numbers of its pictures."""
    numbers: dict[str, int] = {}
    pixels: list[torch.Tensor] = []
    sizes: list[Any] = []
    chosen: list[list[int]] = []
    for example in examples:
        chosen.append([])
        for name, image, size in zip(example["image_names"], example["images"], example["image_sizes"], strict=True):
            if name not in numbers:
                numbers[name] = len(pixels)
                pixels.append(image)
                sizes.append(size)
            chosen[-1].append(numbers[name])
    return pixels, sizes, chosen


def lay_out(
    examples: Sequence[Mapping[str, Any]], chosen: Sequence[Sequence[int]], max_length: int | None = None
) -> dict[str, Any]:
    """Where the tokens of a batch come from and what is taught; N tokens in all, M of them taught.

    Keys: ids (text tokens), rows (N, into [text; features]), positions (1 x N), lengths (tokens per example), masks
    (one per example, None: causal), taught (M, rows of the hidden states), targets (M), num_features. Examples are cut
    at `max_length`, pictures counted; an example with `branches` (independent turns) in each of its paths.
    """
    counts: dict[int, int] = {}
    for example, pictures in zip(examples, chosen, strict=True):
        counts.update(zip(pictures, example["image_tokens"], strict=True))
    num_text = sum(int((example["input_ids"] != IMAGE_TOKEN_INDEX).sum()) for example in examples)
    starts = [
        num_text,
        *(num_text + end for end in itertools.accumulate(counts[number] for number in range(len(counts)))),
    ]
    ids: list[int] = []
    rows: list[int] = []
    lengths: list[int] = []
    taught: list[int] = []
    targets: list[int] = []
    masks: list[torch.Tensor | None] = []
    positions: list[torch.Tensor] = []
    for example, pictures in zip(examples, chosen, strict=True):
        waiting = iter(pictures)
        mine: list[int] = []
        labels: list[int] = []
        for token, label in zip(example["input_ids"].tolist(), example["labels"].tolist(), strict=True):
            if token == IMAGE_TOKEN_INDEX:
                number = next(waiting)
                mine += range(starts[number], starts[number + 1])
                labels += [IGNORE_INDEX] * counts[number]
            else:
                mine.append(len(ids))
                labels.append(label)
                ids.append(token)
        kept, places, mask = _paths(len(mine), len(mine) - len(example["input_ids"]), example["branches"], max_length)
        labels = [labels[place] for place in kept]
        wanted = [place for place in range(1, len(labels)) if labels[place] != IGNORE_INDEX]
        taught += [len(rows) + place - 1 for place in wanted]
        targets += [labels[place] for place in wanted]
        rows += [mine[place] for place in kept]
        lengths.append(len(labels))
        positions.append(places)
        masks.append(mask)
    return {
        "ids": torch.tensor(ids),
        "rows": torch.tensor(rows),
        "positions": torch.cat(positions)[None],
        "lengths": lengths,
        "masks": masks,
        "taught": torch.tensor(taught, dtype=torch.int64),
        "targets": torch.tensor(targets, dtype=torch.int64),
        "num_features": starts[-1] - num_text,
    }


def _paths(
    total: int, added: int, branches: Sequence[int], max_length: int | None
) -> tuple[Sequence[int], torch.Tensor, torch.Tensor | None]:
    """What is kept of an example of `total` positions, each one's place in its own path, and who may look at whom.

    `added` positions came in for the pictures, all of them before the first branch. Each path, what is shared and one
    branch, is cut at `max_length`. The mask, bool T x T, is None where it is the plain causal one.
    """
    if not branches:
        kept = range(total)[:max_length]
        return kept, torch.arange(len(kept)), None
    bounds = [0, *(start + added for start in branches), total]
    room = total if max_length is None else max_length
    indices: list[int] = []
    places: list[int] = []
    path: list[int] = []
    for number, (start, end) in enumerate(itertools.pairwise(bounds)):
        before = bounds[1] if number else 0
        length = max(0, min(end - start, room - before))
        indices += range(start, start + length)
        places += range(before, before + length)
        path += [number] * length
    owner = torch.tensor(path)
    seen = (owner[None, :] == 0) | (owner[None, :] == owner[:, None])
    return indices, torch.tensor(places), seen.tril()


def picture_features(model: Any, images: Any, sizes: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Features of all pictures one after another, F x H, merged as upstream merges views."""
    if isinstance(images, torch.Tensor) and images.ndim == 4:
        return model.encode_images(images).flatten(0, 1)  # type: ignore[no-any-return]
    views = [image[None] if image.ndim == 3 else image for image in images]
    features = model.encode_images(torch.cat(views))
    if getattr(model.config, "mm_patch_merge_type", "flat") == "flat":
        return features.flatten(0, 1)  # type: ignore[no-any-return]
    parts = features.split([len(view) for view in views])
    return torch.cat([merge_views(part, size, model) for part, size in zip(parts, sizes, strict=True)])


def merge_views(views: torch.Tensor, size: tuple[int, int], model: Any) -> torch.Tensor:
    """One picture's views (V x P x H, the overview first) as upstream's 1.6 lays them out. `size`: width, height."""
    from llava.mm_utils import get_anyres_image_grid_shape
    from llava.model.llava_arch import unpad_image

    base, tiles = views[0], views[1:]
    unpad = "unpad" in model.config.mm_patch_merge_type
    newline = model.get_model().image_newline.to(base.device) if unpad else None
    if not len(tiles):
        return base if newline is None else torch.cat([base, newline[None]])
    tower = model.get_vision_tower()
    side = tower.num_patches_per_side
    columns, rows = get_anyres_image_grid_shape(size, model.config.image_grid_pinpoints, tower.config.image_size)
    canvas = tiles.view(rows, columns, side, side, -1).permute(4, 0, 2, 1, 3).flatten(1, 2).flatten(2, 3)
    if newline is not None:
        canvas = unpad_image(canvas, size)
        column = newline[:, None, None].expand(*canvas.shape[:-1], 1)
        canvas = torch.cat([canvas, column], dim=-1)
    return torch.cat([base, canvas.flatten(1).T])


def embed(model: Any, layout: Mapping[str, Any], images: Any, sizes: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Input embeddings of a laid-out batch, 1 x N x H. No value is read back from the device."""
    text = model.get_model().embed_tokens(layout["ids"])
    features = picture_features(model, images, sizes)
    # A batch of text alone carries one blank picture, so that every rank runs the same modules.
    if layout["num_features"] not in (0, features.shape[0]):
        raise UserError(
            f"the pictures of a batch gave {features.shape[0]} features where {layout['num_features']} were laid out; "
            "the model's config and its vision tower disagree (run llava-finetune doctor), or pass --unpadded False"
        )
    return torch.cat([text, features]).index_select(0, layout["rows"])[None]


def _short(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, seen: torch.Tensor | None
) -> torch.Tensor:
    """Attention of one sample by two matrix products: on CPU the backward of short ones beats SDPA's.

    query: heads x T x D; key, value: groups x T x D, never repeated; seen: bool T x T, None for causal. Softmax is
    fp32 inside, as eager's.
    """
    groups, length, width = key.shape
    folded = query.reshape(groups, -1, length, width)
    scores = torch.matmul(folded * scaling, key[:, None].transpose(-1, -2))
    if seen is None:
        seen = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    weights = scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1)
    return torch.matmul(weights, value[:, None]).reshape(query.shape)


def _fused(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, seen: torch.Tensor | None
) -> torch.Tensor:
    attend = functional.scaled_dot_product_attention
    how = {"attn_mask": seen, "is_causal": seen is None, "scale": scaling, "enable_gqa": True}
    return attend(query[None], key[None], value[None], **how)[0]  # type: ignore[no-any-return]


def _attention(name: str) -> Any:
    """An attention function for transformers: laid-out batches sample by sample, anything else as `name` does."""
    each = _fused if name == "sdpa" else _short

    def attention(
        module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float | None = None, **keywords: Any
    ) -> Any:
        layout = keywords.pop("layout", None)
        if layout is None:
            return _padded(name)(module, query, key, value, mask, scaling=scaling, **keywords)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        pieces = zip(*(part[0].split(layout["lengths"], dim=1) for part in (query, key, value)), strict=True)
        masked = zip(pieces, layout["masks"], strict=True)
        out = torch.cat([each(*piece, scale, seen).transpose(0, 1) for piece, seen in masked])
        return out[None], None

    return attention


def _padded(name: str) -> Any:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.models.llama.modeling_llama import eager_attention_forward

    return ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention_forward)


def can_unpad(config: Any) -> bool:
    """Whether a model's attention can run on laid-out batches: eager or SDPA, no window, no attention dropout."""
    name = config._attn_implementation
    plain = name in ("eager", "sdpa") or name.startswith(ATTENTION)
    return plain and not getattr(config, "sliding_window", None) and not getattr(config, "attention_dropout", 0)


def unpad_attention(config: Any) -> None:
    """Switch a language model's config to attention that takes a `layout`; padded batches go on as before."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    name = config._attn_implementation
    if name.startswith(ATTENTION):
        return
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION + name, _attention(name))
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION + name, ALL_MASK_ATTENTION_FUNCTIONS[name])
    config._attn_implementation = ATTENTION + name


def run_layers(model: Any, embeddings: torch.Tensor, layout: Mapping[str, Any]) -> torch.Tensor:
    """Hidden states, N x H, of the language model without its head."""
    # A mask of four dimensions is passed through as it is; laid-out attention needs none.
    unused = torch.empty(1, 1, 1, 1, device=embeddings.device, dtype=embeddings.dtype)
    out = model.get_model()(
        inputs_embeds=embeddings,
        attention_mask=unused,
        position_ids=layout["positions"],
        use_cache=False,
        layout=layout,
    )
    return out.last_hidden_state[0]  # type: ignore[no-any-return]


def laid_out_loss(model: Any, layout: Mapping[str, Any], images: Any, sizes: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Mean cross entropy over the taught tokens of a laid-out batch; the head runs on their rows alone."""
    hidden = run_layers(model, embed(model, layout, images, sizes), layout)
    logits = model.lm_head(hidden.index_select(0, layout["taught"])).float()
    return functional.cross_entropy(logits, layout["targets"])
