"""The flag that names the picture folder: --images, and the spellings that upstream and older commands have for it.

add_images_option(parser)
parser.parse_args(["--image_folder", "photos"]).image_folder      # Path("photos")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

SPELLINGS = ("--images", "--image", "--image-folder", "--image_folder")
"""Every command takes each; the first is what help, documents and messages show."""


def add_images_option(
    parser: argparse.ArgumentParser,
    text: str = "the folder that picture names are relative to",
    *,
    dest: str = "image_folder",
    required: bool = False,
) -> None:
    """Add the flag under all its spellings; `text` is its help, the value is a Path."""
    parser.add_argument(*SPELLINGS, dest=dest, type=Path, metavar="FOLDER", required=required, help=text)
