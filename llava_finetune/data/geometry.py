"""Where a point of a picture comes to lie in what the vision tower sees, and back, just as `process_image` does it.

    views = views_of((640, 480), processor, config)       # one view, or for anyres the whole and its pieces
    views[0].seen(Box(0, 0, 640, 480))                    # Box(0, 42, 336, 294) of a square of 336, padded
    views[0].in_picture(Box(0, 42, 336, 294))             # Box(0, 0, 640, 480)

Pictures are upright here: the EXIF orientation is applied when they are opened (`data_prep.boxes.box.turned`).
"""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass
from typing import Any

from data_prep.boxes.box import Box, Size


@dataclass(frozen=True)
class View:
    """One square that the tower sees: a point x of the picture is at x * scale + shift, in pixels of the view."""

    size: Size
    scale: tuple[float, float]
    shift: tuple[float, float]

    def seen(self, box: Box) -> Box:
        """Return a box of the picture as it lies in the view, also where that is outside of it."""
        return box.scaled(*self.scale).shifted(*self.shift)

    def in_picture(self, box: Box) -> Box:
        """Return a box of the view as it lies in the picture."""
        return box.shifted(-self.shift[0], -self.shift[1]).scaled(1 / self.scale[0], 1 / self.scale[1])

    def visible(self, box: Box) -> Box | None:
        """Return what of a box of the picture lies in the view, in pixels of the view; None where nothing does."""
        inside = self.seen(box).clipped(self.size)
        return None if inside.is_reversed else inside


def views_of(size: Size, processor: Any, config: Any) -> list[View]:
    """Return the views that `process_image` makes of an upright picture of `size` (width, height), in their order."""
    aspect = getattr(config, "image_aspect_ratio", None)
    if aspect == "anyres":
        return _anyres(size, processor, config.image_grid_pinpoints)
    if aspect != "pad":
        return [_processed(size, processor)]
    long = max(size)
    square = _processed((long, long), processor)
    left, top = ((long - side) // 2 for side in size)
    across, down = square.scale
    return [View(square.size, square.scale, (square.shift[0] + left * across, square.shift[1] + top * down))]


def _processed(size: Size, processor: Any) -> View:
    """What transformers' image processor does: the shortest edge (or both) resized, the middle cut out."""
    width, height = resized = _resized(size, processor) if processor.do_resize else size
    scale = (width / size[0], height / size[1])
    if not getattr(processor, "do_center_crop", False):
        return View(resized, scale, (0.0, 0.0))
    crop = (processor.crop_size["width"], processor.crop_size["height"])
    return View(crop, scale, (-float((width - crop[0]) // 2), -float((height - crop[1]) // 2)))


def _resized(size: Size, processor: Any) -> Size:
    wanted = processor.size
    edge = wanted.get("shortest_edge")
    if edge is None:
        return wanted["width"], wanted["height"]
    short = min(size)
    longer = int(edge * max(size) / short)
    return (edge, longer) if size[0] <= size[1] else (longer, edge)


def _anyres(size: Size, processor: Any, pinpoints: Any) -> list[View]:
    """The whole picture pressed into a square, then the squares of it, resized and laid on the grid that fits best."""
    from llava.mm_utils import select_best_resolution

    grids = pinpoints if isinstance(pinpoints, list) else ast.literal_eval(pinpoints)
    across, down = select_best_resolution(size, grids)
    shares = (across / size[0], down / size[1])
    if shares[0] < shares[1]:
        inner = (across, min(math.ceil(size[1] * shares[0]), down))
    else:
        inner = (min(math.ceil(size[0] * shares[1]), across), down)
    scale = (inner[0] / size[0], inner[1] / size[1])
    left, top = (across - inner[0]) // 2, (down - inner[1]) // 2
    edge, piece = processor.size["shortest_edge"], processor.crop_size["height"]
    whole = _processed((edge, edge), processor)
    views = [View(whole.size, (edge / size[0], edge / size[1]), whole.shift)]
    views += [
        View((piece, piece), scale, (float(left - x), float(top - y)))
        for y in range(0, down, piece)
        for x in range(0, across, piece)
    ]
    return views
