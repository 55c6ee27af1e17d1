"""Greys of more than 8 bits, of signed numbers and of floats, as the 8 bits that a model sees.

Each picture is put on the smallest of a few fixed scales that holds its values, not stretched to its own darkest and
brightest: the same value stays the same grey in all pictures of one scale, and a 12-bit X-ray in a 16-bit file, whose
values end at 4,095, is not black. A data set in which pictures have several scales is a finding of the check.

    scale_of(0, 3900, whole=True)          # Scale(0, 4095): 12 bits
    scale_of(-1000, 1500, whole=True)      # Scale(-1024, 3071): CT numbers
    scale_of(0.0, 0.7, whole=False)        # Scale(0, 1)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from PIL import Image

BITS = (8, 10, 12, 14, *range(16, 33))
"""Depths that cameras and detectors have; beyond 16 every one, for sums."""

CT = (-1024, 3071)
"""CT numbers in Hounsfield units: 12 bits, air at -1,000."""

SMALLEST_SHARE = 1 / 16
"""Floats that stay below this share of 0 to 1 are put on a smaller scale, a power of two."""

ROWS = 256
"""Rows that are scaled at a time: the floats in between take no more memory than these."""


class Scale(NamedTuple):
    """The value that becomes 0 and the one that becomes 255."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:,g} to {self.high:,g}"


class Greys(NamedTuple):
    """What a picture of wide greys holds: its scale, its lowest and highest value, and how many are no number (NaN)."""

    scale: Scale
    lowest: float
    highest: float
    num_missing: int = 0

    @property
    def num_levels(self) -> int:
        """Return how many of the 256 greys lie between the lowest and the highest value, both counted."""
        share = (self.highest - self.lowest) / (self.scale.high - self.scale.low)
        return int(share * 255) + 1


def scale_of(lowest: float, highest: float, *, whole: bool) -> Scale:
    """Return the smallest fixed scale that holds the values; `whole`: they are whole numbers."""
    if lowest < 0:
        signed = ((-128, 127), CT, *((-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in range(12, 33)))
        scales = signed if whole else (_around_zero(max(-lowest, highest)), *signed)
    else:
        unsigned = tuple((0, 2**bits - 1) for bits in BITS)
        scales = unsigned if whole else ((0, _power(highest)), *unsigned)
    own = (min(lowest, 0), max(highest, 0))  # not (lowest, highest): a picture of one value would have no scale
    return Scale(*next((scale for scale in scales if scale[0] <= lowest and highest <= scale[1]), own))


def _around_zero(largest: float) -> tuple[float, float]:
    return -_power(largest), _power(largest)


def _power(largest: float) -> float:
    """Return 1, or for floats that stay far below it the power of two that holds them."""
    if largest >= SMALLEST_SHARE or largest <= 0:
        return 1.0
    return max(2.0 ** math.ceil(math.log2(largest)), 1e-300)


def eight_bits(image: Image.Image) -> tuple[Image.Image, Greys]:
    """Return a decoded picture of mode I, I;16 or F as 8 bits (mode L), and what it held.

    No number (NaN) becomes 0, the infinite ones black and white. Raises ValueError where no value is a finite number.
    """
    import numpy
    from PIL import Image

    values = numpy.asarray(image)
    greys = greys_of(values)
    low, high = greys.scale
    scaled = numpy.empty(values.shape, numpy.uint8)
    for start in range(0, len(values), ROWS):
        block = (values[start : start + ROWS].astype(numpy.float64) - low) * (255.0 / (high - low))
        scaled[start : start + ROWS] = numpy.nan_to_num(block, nan=0.0).clip(0, 255)
    return Image.fromarray(scaled, "L"), greys


def greys_of(values: Any) -> Greys:
    """Return what an array of greys holds. Raises ValueError where no value is a finite number."""
    import numpy

    whole = values.dtype.kind in "iu"
    finite = values if whole else values[numpy.isfinite(values)]
    if not finite.size:
        raise ValueError("no value of it is a number, all are NaN or infinite")
    lowest, highest = float(finite.min()), float(finite.max())
    num_missing = 0 if whole else int(numpy.isnan(values).sum())
    return Greys(scale_of(lowest, highest, whole=whole), lowest, highest, num_missing)
