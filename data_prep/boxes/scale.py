"""The scales on which boxes are written, and the way between them and pixels.

    Scale.THOUSAND.to_pixels(Box(500, 0, 1000, 1000), (640, 480))        # Box(320, 0, 640, 480)

LLaVA-1.5's own boxes (RefCOCO, Visual Genome in its instruction data) are shares of the square that a picture is
padded to, not of the picture (haotian-liu/LLaVA, issues 606 and 822): SQUARE here.
"""

from __future__ import annotations

from enum import Enum

from data_prep.boxes.box import Box, Size


class Scale(Enum):
    """Shares (0 to 1) of the picture, of the padded square; thousandths of the picture (Qwen); pixels."""

    NORMALISED = "normalised"
    SQUARE = "square"
    THOUSAND = "1000"
    PIXELS = "pixels"

    @property
    def most(self) -> float | None:
        """The largest number on this scale; None for pixels, where the picture says it."""
        return {Scale.NORMALISED: 1.0, Scale.SQUARE: 1.0, Scale.THOUSAND: 1000.0}.get(self)

    @property
    def unit(self) -> float:
        """By how much a number of this scale may be off without being wrong: what rounding does."""
        return 0.01 if self.most == 1 else 1.0

    @property
    def needs_size(self) -> bool:
        """Whether a box of this scale says nothing of the picture's shares without the picture's size."""
        return self in {Scale.SQUARE, Scale.PIXELS}

    def to_pixels(self, numbers: Box, size: Size) -> Box:
        """Return the box of numbers of this scale in pixels of the upright picture of `size`."""
        width, height = size
        if self is Scale.PIXELS:
            return numbers
        if self is Scale.SQUARE:
            long = max(size)
            return numbers.scaled(long, long).shifted(-((long - width) // 2), -((long - height) // 2))
        most = self.most or 1.0
        return numbers.scaled(width / most, height / most)

    def of_pixels(self, box: Box, size: Size) -> Box:
        """Return a box in pixels as numbers of this scale, not rounded."""
        width, height = size
        if self is Scale.PIXELS:
            return box
        if self is Scale.SQUARE:
            long = max(size)
            return box.shifted((long - width) // 2, (long - height) // 2).scaled(1 / long, 1 / long)
        most = self.most or 1.0
        return box.scaled(most / width, most / height)
