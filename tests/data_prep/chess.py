"""Photographs of chess pieces, drawn by code: single pieces in train/, groups in test/, as HEIC from a phone.

    python tests/data_prep/chess.py phone                          the pictures
    python tests/data_prep/chess.py --fill train.csv test.csv      the captions, as a person would write them
    python tests/data_prep/chess.py --sheet docs/chess.png         all of them on one sheet

Each file's name says what is on it, so that the captions can be filled in without looking.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

PIECES = ("pawn", "rook", "knight", "bishop", "queen", "king")
COLOURS = {"white": ((236, 226, 204), (120, 100, 70)), "black": ((58, 50, 46), (12, 10, 10))}
GROUPS = [
    ("white-pawn", "black-rook"),
    ("white-king", "white-queen"),
    ("black-knight", "white-bishop", "black-pawn"),
    ("white-rook", "white-rook"),
]
Shape = list[tuple[float, float]]

# Outlines on a square of 100 x 100, the right half only: the left mirrors it (but for the knight, which is whole).
BASE = [(34, 100), (34, 92), (27, 88), (20, 80)]
HALVES: dict[str, Shape] = {
    "pawn": [*BASE, (12, 58), (18, 52), (10, 48), (17, 38), (15, 28), (8, 22), (0, 20)],
    "rook": [*BASE, (18, 48), (26, 40), (26, 18), (16, 18), (16, 26), (7, 26), (7, 18), (0, 18)],
    "bishop": [*BASE, (10, 56), (20, 50), (20, 46), (12, 42), (18, 30), (12, 18), (4, 10), (4, 4), (0, 2)],
    "queen": [*BASE, (12, 50), (22, 44), (20, 38), (30, 8), (18, 24), (14, 4), (7, 22), (0, 2)],
    "king": [
        *BASE,
        (14, 52),
        (24, 44),
        (26, 26),
        (14, 20),
        (5, 20),
        (5, 14),
        (11, 14),
        (11, 8),
        (5, 8),
        (5, 0),
        (0, 0),
    ],
}
KNIGHT: Shape = [
    (-34, 100), (34, 100), (34, 92), (27, 88), (24, 60), (20, 36), (8, 18), (0, 4), (-4, 16), (-14, 24), (-30, 46),
    (-26, 58), (-16, 58), (-4, 50), (-8, 64), (-22, 88), (-34, 92),
]  # fmt: skip


def outline(piece: str) -> Shape:
    """Return the outline of a piece, x from -50 to 50, y down from 0 to 100."""
    if piece == "knight":
        return KNIGHT
    half = HALVES[piece]
    return [*half, *((-x, y) for x, y in reversed(half))]


def draw_piece(image: Image.Image, colour: str, piece: str, middle: float, foot: float, height: float) -> None:
    """Draw one piece with its shadow and a light edge; `middle`, `foot` and `height` in pixels."""
    scale = height / 100
    points = [(middle + x * scale, foot - (100 - y) * scale) for x, y in outline(piece)]
    shadow = Image.new("L", image.size)
    ImageDraw.Draw(shadow).ellipse(
        (middle - 44 * scale, foot - 8 * scale, middle + 60 * scale, foot + 9 * scale), fill=130
    )
    image.paste((30, 24, 20), (0, 0), shadow.filter(ImageFilter.GaussianBlur(height / 25)))
    body, edge = COLOURS[colour]
    pen = ImageDraw.Draw(image)
    pen.polygon(points, fill=body, outline=edge, width=max(1, round(height / 45)))
    band = [(-20, 82), (20, 82)]
    pen.line(
        [(middle + x * scale, foot - (100 - y) * scale) for x, y in band], fill=edge, width=max(1, round(height / 40))
    )
    if piece == "knight":
        x, y = middle - 12 * scale, foot - 68 * scale
        pen.ellipse((x - 2 * scale, y - 2 * scale, x + 2 * scale, y + 2 * scale), fill=edge)


def photograph(pieces: list[str], seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Return a picture of pieces ("white-pawn", ...) side by side on a table, light and place a little different."""
    luck = random.Random(seed)
    wood = (150 + luck.randrange(40), 110 + luck.randrange(30), 70 + luck.randrange(20))
    image = Image.new("RGB", size, tuple(min(255, part + 60) for part in wood))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, size[1] * 0.45, *size), fill=wood)
    for line in range(6):
        y = size[1] * (0.5 + 0.09 * line)
        pen.line((0, y, size[0], y + luck.randrange(-6, 6)), fill=tuple(part - 14 for part in wood), width=2)
    room = size[0] / len(pieces)
    for place, name in enumerate(pieces):
        colour, _, piece = name.partition("-")
        height = min(size[1] * 0.72, room * 0.95) * luck.uniform(0.88, 1.0)
        middle = room * (place + 0.5) + luck.uniform(-0.05, 0.05) * room
        draw_piece(image, colour, piece, middle, size[1] * luck.uniform(0.86, 0.92), height)
    return image.filter(ImageFilter.GaussianBlur(0.6))


def write_pictures(folder: Path, each: int = 1) -> int:
    """Write singles (each piece and colour `each` times) and groups as HEIC; return how many."""
    from pillow_heif import register_heif_opener

    register_heif_opener()
    pictures = {
        f"train/{colour}-{piece}-{number}.heic": [f"{colour}-{piece}"]
        for colour in COLOURS
        for piece in PIECES
        for number in range(1, each + 1)
    }
    pictures |= {f"test/{'+'.join(group)}.heic": list(group) for group in GROUPS}
    for seed, (name, pieces) in enumerate(pictures.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        photograph(pieces, seed).save(path, quality=85)
    return len(pictures)


def caption_of(name: str) -> str:
    """Return the caption that a person would write: white-pawn+black-rook.jpg is "a white pawn and a black rook"."""
    words = [f"a {' '.join(piece.split('-')[:2])}" for piece in Path(name).stem.split("+")]
    if len(words) == 2 and words[0] == words[1]:
        return f"two {words[0][2:]}s"
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[:-1] else words)


def fill_in(table: Path) -> None:
    """Write the caption of every row of a template."""
    with table.open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["image", "caption"])
        writer.writeheader()
        writer.writerows({"image": row["image"], "caption": caption_of(row["image"])} for row in rows)


def write_sheet(path: Path) -> None:
    """Write all pieces and groups on one sheet."""
    singles = [[f"{colour}-{piece}"] for colour in COLOURS for piece in PIECES]
    pictures = [photograph(pieces, seed) for seed, pieces in enumerate([*singles, *map(list, GROUPS)])]
    sheet = Image.new("RGB", (6 * 164 - 4, 3 * 124 - 4), "white")
    for place, picture in enumerate(pictures):
        sheet.paste(picture.resize((160, 120)), (place % 6 * 164, place // 6 * 124))
    sheet.save(path, optimize=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Write pictures, captions or the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="folder for the HEIC pictures")
    parser.add_argument("--each", type=int, default=1, help="pictures of each single piece; default 1")
    parser.add_argument("--fill", type=Path, nargs="+", default=[], metavar="CSV", help="templates to fill in")
    parser.add_argument("--sheet", type=Path, help="picture of all pieces and groups")
    arguments = parser.parse_args(argv)
    if arguments.folder:
        print(f"{arguments.folder}: {write_pictures(arguments.folder, arguments.each)} pictures")
    for table in arguments.fill:
        fill_in(table)
    if arguments.sheet:
        write_sheet(arguments.sheet)


if __name__ == "__main__":
    main()
