"""Phone pictures to JPEG: upright, names kept, metadata (place, time, camera) dropped unless asked for.

    python -m data_prep heic photos --output-dir jpeg --prefix holiday-

Every HEIC, AVIF, TIFF, WebP ... becomes a JPEG; JPEG files are copied with their bytes as they are when they are
upright and their metadata is kept or absent, else turned and written again at quality 95.
"""

from __future__ import annotations

import argparse
import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from data_prep.converters.folder import pictures_below
from data_prep.converters.options import converter_parser
from data_prep.errors import DataError, PictureError, PictureFault, printable
from data_prep.files import atomic_file, write_json
from data_prep.numbers import whole
from data_prep.progress import Progress
from data_prep.records.exif import ORIENTATION, orientation_of
from data_prep.records.output import command_line
from data_prep.records.picture import decode, num_frames, open_lazily, read_picture, resolve_image
from data_prep.records.pixels import add_pixel_option, allow_pixels

if TYPE_CHECKING:
    from PIL import Image

EXAMPLES = """  python -m data_prep heic photos --output-dir jpeg
  python -m data_prep heic photos --output-dir jpeg --prefix holiday- --keep-metadata"""
QUALITY = 95


def _name_part(text: str) -> str:
    """The value of --prefix: what may stand at the beginning of a file's name."""
    if "/" in text or "\0" in text:
        raise argparse.ArgumentTypeError(f"expected the beginning of a file's name, without /, found {text[:40]!r}")
    return text


def target_name(name: str, prefix: str) -> str:
    """Return the JPEG's name: the same below the same folders, with the prefix before the file's name.

    >>> target_name("rome/IMG_1.HEIC", "2024-")
    'rome/2024-IMG_1.jpg'
    """
    path = PurePosixPath(name)
    return str(path.with_name(f"{prefix}{path.stem}.jpg"))


def target_names(names: Sequence[str], prefix: str) -> dict[str, str]:
    """Return the JPEG name of each picture; raise DataError when two pictures would get one name."""
    targets: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name in names:
        target = target_name(name, prefix)
        if (other := taken.setdefault(target.lower(), name)) != name:
            raise DataError(name, f"would be written to {target}, as {printable(other)} is; rename one of them")
        targets[name] = target
    return targets


def to_jpeg(raw: bytes, name: str, quality: int, keep_metadata: bool) -> bytes:
    """Return a picture's bytes as an upright JPEG; the very bytes where nothing has to change.

    With `keep_metadata` EXIF and colour profile stay (the orientation is reset, the embedded preview dropped); EXIF so
    broken that it cannot be written again is left out. Raises PictureError for what is no picture, or no JPEG can hold.
    """
    header = open_lazily(io.BytesIO(raw), name)
    upright = orientation_of(header) == 1
    if (
        header.format == "JPEG"
        and header.mode in {"RGB", "L"}
        and upright
        and (keep_metadata or "exif" not in header.info)
    ):
        decode(io.BytesIO(raw), name)  # a damaged JPEG must not be copied
        return raw
    profile = header.info.get("icc_profile")
    image = decode(io.BytesIO(raw), name)
    options: dict[str, object] = {"icc_profile": profile} if profile and header.mode == "RGB" else {}
    if keep_metadata and (exif := _exif_of_upright(header)):
        options["exif"] = exif
    written = io.BytesIO()
    image.info.clear()
    try:
        image.save(written, "JPEG", quality=quality, subsampling=0, **options)
    except (OSError, ValueError) as error:
        size = f"{image.width} x {image.height}"
        problem = f"{size} pixels cannot be written as JPEG ({error}); it takes 65,500 a side"
        raise PictureError(name, PictureFault.HUGE, problem) from None
    return written.getvalue()


def _exif_of_upright(header: Image.Image) -> bytes | None:
    """Return a picture's EXIF without its orientation; None where there is none or it cannot be written again."""
    try:
        exif = header.getexif()
        exif.pop(ORIENTATION, None)
        return exif.tobytes() if len(exif) else None
    except Exception:  # Pillow's reader and writer raise anything on broken EXIF
        return None


def _originals(folder: Path, target: Path) -> list[str]:
    """Return the pictures of a folder without those that an earlier run wrote to `target` below it."""
    names, root, inside = pictures_below(folder), folder.resolve(), target.resolve()
    if not inside.is_relative_to(root):
        return names
    written = f"{inside.relative_to(root).as_posix()}/"
    return [name for name in names if not name.startswith(written)]


@dataclass
class Outcome:
    """What became of the pictures: counts, what could not be read, and each picture's new name and hash."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    pictures: dict[str, dict[str, str]] = field(default_factory=dict)


def convert(folder: Path, target: Path, names: dict[str, str], args: argparse.Namespace) -> Outcome:
    """Write a JPEG for each picture. One bad picture stops nothing; of several frames the first is kept, and said."""
    outcome = Outcome()
    with Progress("converting", len(names), "pictures") as progress:
        for name, new in progress.each(names.items()):
            try:
                raw = read_picture(resolve_image(folder, name))
                jpeg = to_jpeg(raw, name, args.quality, args.keep_metadata)
                frames = num_frames(open_lazily(io.BytesIO(raw), name))
            except PictureError as error:
                outcome.counts[error.fault.value] += 1
                outcome.problems.append(f"{printable(name)}: {error.problem}")
                continue
            outcome.counts["copied as they are" if jpeg is raw else "converted"] += 1
            outcome.counts["only the first of several frames"] += frames > 1
            outcome.pictures[name] = {"as": new, "sha256": hashlib.sha256(raw).hexdigest()}
            path = target / new
            if not (path.is_file() and path.read_bytes() == jpeg):
                with atomic_file(path) as stream:
                    stream.write(jpeg)
    return outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Convert a folder; return 1 when a picture could not be read."""
    parser = converter_parser("heic", "Phone pictures (HEIC, and any other kind) to upright JPEG.", EXAMPLES)
    parser.add_argument("folder", type=Path, help="the folder with the pictures")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for the JPEG files")
    parser.add_argument("--prefix", type=_name_part, default="", help="put before each file's name")
    parser.add_argument("--keep-metadata", action="store_true", help="keep EXIF: place, time, camera")
    parser.add_argument("--quality", type=whole(1, 100), default=QUALITY, help=f"of JPEG; default {QUALITY}")
    add_pixel_option(parser)
    args = parser.parse_args(argv)
    allow_pixels(args.max_pixels)
    if args.folder.resolve() == args.output_dir.resolve():
        raise DataError(args.output_dir, "is the folder of the originals; choose another --output-dir")
    names = target_names(_originals(args.folder, args.output_dir), args.prefix)
    outcome = convert(args.folder, args.output_dir, names, args)
    counts = +outcome.counts  # without what did not happen
    meta: dict[str, object] = {"kind": "heic", "command": command_line(), "from": str(args.folder), "in": len(names)}
    meta |= {"out": len(outcome.pictures), "counts": dict(counts), "problems": outcome.problems}
    write_json(args.output_dir / "heic.meta.json", {**meta, "pictures": outcome.pictures})
    told = ", ".join(f"{what} {number}" for what, number in counts.items())
    print(f"{args.output_dir}: {len(names)} in, {len(outcome.pictures)} out ({told})")
    for problem in outcome.problems[:10]:
        print(f"  {problem}")
    return 1 if outcome.problems else 0
