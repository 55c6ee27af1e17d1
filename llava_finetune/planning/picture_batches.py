"""Which records go into one batch, so that those about the same pictures meet: arithmetic without torch.

>>> order(["a", "b", "a", "b"], batch=2, seed=0, epoch=0) in ([0, 2, 1, 3], [0, 2, 3, 1], [2, 0, 1, 3], [2, 0, 3, 1],
...     [1, 3, 0, 2], [1, 3, 2, 0], [3, 1, 0, 2], [3, 1, 2, 0])
True
>>> most_pictures(["a", "b", "a", "b"], batch=2)
1
"""

import random
from collections.abc import Hashable, Sequence

PictureKey = Hashable
"""What tells pictures apart: names and folder; None for a record of text."""
WINDOW = 256
"""Groups that are looked through for one that fits into what is left of a batch."""
LOOKED_AT = 300_000
"""Records that `most_pictures` looks at: an epoch at least, three at most."""


def order(keys: Sequence[PictureKey], batch: int, seed: int, epoch: int) -> list[int]:
    """The indices of all records, batch after batch: groups about the same pictures in random order, whole if they fit.

    A group of more than `batch` records is cut into batches. Where no group of the next WINDOW fits into what is left
    of a batch, the first one is cut.
    """
    draw = random.Random(f"{seed} {epoch}")
    waiting = _groups(keys, batch, draw)
    out: list[int] = []
    while waiting:
        room = batch - len(out) % batch
        near = range(max(0, len(waiting) - WINDOW), len(waiting))
        fits = next((place for place in reversed(near) if len(waiting[place]) <= room), None)
        if fits is None:
            out += waiting[-1][:room]
            waiting[-1] = waiting[-1][room:]
        else:
            out += waiting.pop(fits)
    return out


def most_pictures(keys: Sequence[PictureKey], batch: int) -> int:
    """The most different pictures, or records of text, that a batch of the first epochs holds."""
    most = 0
    for epoch in range(max(1, min(3, LOOKED_AT // max(1, len(keys))))):
        found = order(keys, batch, 0, epoch)
        for start in range(0, len(found), batch):
            chosen = [keys[index] for index in found[start : start + batch]]
            most = max(most, len({key for key in chosen if key is not None}) + chosen.count(None))
    return most


def _groups(keys: Sequence[PictureKey], batch: int, draw: random.Random) -> list[list[int]]:
    """Records of the same pictures together, at most `batch`, all in random order; a record of text alone."""
    by_key: dict[PictureKey, list[int]] = {}
    groups: list[list[int]] = []
    for index, key in enumerate(keys):
        if key is None:
            groups.append([index])
        else:
            by_key.setdefault(key, []).append(index)
    for members in by_key.values():
        draw.shuffle(members)
        groups += [members[start : start + batch] for start in range(0, len(members), batch)]
    draw.shuffle(groups)
    return groups
