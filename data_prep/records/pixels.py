"""How large a picture may be: one limit for checks, training, conversion and answers, and a flag that raises it.

pixel_limit()                # 89,478,485, or what --max-pixels allows
largest_form(22000, 1)       # 2,483,712,000: what a processor makes of 148 bytes of PNG
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from data_prep.errors import UsageError
from data_prep.numbers import whole

if TYPE_CHECKING:
    import argparse

MAX_PIXELS = 89_478_485
"""Pixels above which a picture is refused: Pillow's own limit, a quarter of a gigabyte as RGB."""

PIXELS_VARIABLE = "LLAVA_FINETUNE_MAX_PIXELS"
"""The environment variable that holds another limit: worker processes and ranks inherit it."""

ALLOWABLE = 1_000_000_000
"""Pixels up to which raising the limit is advised: three gigabytes as RGB."""

SHORTEST_EDGE = 336
"""Pixels that processors scale a picture's shorter side to, before they cut the middle out of the longer one."""


def pixel_limit() -> int:
    """Return how many pixels a picture may have: MAX_PIXELS, or what --max-pixels allows this process."""
    value = os.environ.get(PIXELS_VARIABLE)
    if value is None:
        return MAX_PIXELS
    if not (value.isascii() and value.isdecimal() and 0 < len(value) < 19 and int(value)):
        raise UsageError(f"{PIXELS_VARIABLE}={value}: expected a number of pixels above 0")
    return int(value)


def allow_pixels(count: int | None) -> None:
    """Set the limit for this process and those that it starts; None leaves it as it is."""
    if count is None:
        return
    if not 0 < count < 10**18:
        raise UsageError(f"--max-pixels {count}: expected a number of pixels above 0")
    os.environ[PIXELS_VARIABLE] = str(count)


def add_pixel_option(parser: argparse.ArgumentParser) -> None:
    """Add --max-pixels; its value goes to `allow_pixels`."""
    text = f"largest picture that is opened, in pixels; default {MAX_PIXELS:,}"
    parser.add_argument("--max-pixels", "--max_pixels", type=whole(1, 10**18), metavar="NUMBER", help=text)


def largest_form(width: int, height: int) -> int:
    """Return the pixels of the largest form that a picture has on its way into a model.

    A processor that cuts out the middle scales the shorter side to 336 pixels first: 22000 x 1 becomes 7,392,000 x 336.
    Padding to a square goes by strips (`llava_finetune.data.padding`) and cutting into views never enlarges beyond
    them; both stay below the larger of the two.
    """
    long, short = max(width, height), max(min(width, height), 1)
    return max(width * height, SHORTEST_EDGE * SHORTEST_EDGE * long // short)


def too_large(size: tuple[int, int] | None, limit: int) -> str:
    """Return the message for a picture beyond the limit; `size` None: only that it is far beyond is known."""
    advice = "make it smaller (LLaVA sees 336 to 1,344 pixels a side), or allow more with --max-pixels"
    if size is None:
        return f"more than {2 * max(MAX_PIXELS, limit):,} pixels, more than the {limit:,} allowed; {advice}"
    found = f"{size[0]} x {size[1]} pixels"
    if size[0] * size[1] <= limit:
        times = max(size) // max(min(size), 1)
        becomes = largest_form(*size)
        found += f": one side {times:,} times the other; a model's processor makes {becomes:,} pixels of it"
        advice = "cut it into pieces"
        if becomes <= ALLOWABLE:
            advice += f", or allow more with --max-pixels {becomes}"
    return f"{found}, more than the {limit:,} allowed; {advice}"
