"""A picture padded to a square and scaled to a model's size, to the bit as by upstream, without the square in memory.

Upstream's square of a panorama of 30000 x 500 holds 900 million pixels, of which all but a strip are background. Pillow
scales rows first and columns after, rounding to 8 bits in between, so each row can be scaled on its own.

    resized_square(image, (122, 116, 104), 336, Image.Resampling.BICUBIC)
"""

from __future__ import annotations

from PIL import Image

from data_prep.errors import PictureError, PictureFault
from data_prep.records.pixels import pixel_limit, too_large

BLOCK_PIXELS = 1 << 22


def resized_square(
    image: Image.Image, background: tuple[int, ...], side: int, resample: Image.Resampling
) -> Image.Image:
    """Return an RGB picture of any size as a square of `side` pixels, what is missing filled with `background`."""
    width, height = image.size
    if width == height:
        return image.resize((side, side), resample)
    long = max(width, height)
    tall = Image.new(image.mode, (side, long), background)
    if width > height:
        tall.paste(image.resize((side, height), resample), (0, (width - height) // 2))
    else:
        rows = max(1, BLOCK_PIXELS // long)
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            block = Image.new(image.mode, (long, bottom - top), background)
            block.paste(image.crop((0, top, width, bottom)), ((height - width) // 2, 0))
            tall.paste(block.resize((side, bottom - top), resample), (0, top))
    return tall.resize((side, side), resample)


def require_small_square(image: Image.Image) -> None:
    """Raise PictureError where the square around a picture has more pixels than are allowed; for other processors."""
    long = max(image.size)
    if long * long > pixel_limit():
        raise PictureError("the picture", PictureFault.HUGE, too_large((long, long), pixel_limit()))
