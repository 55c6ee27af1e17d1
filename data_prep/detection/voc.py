"""Pascal VOC's XML files, as labelImg and CVAT write them too, to questions and answers with boxes.

<annotation><filename>a.jpg</filename><size><width>640</width><height>480</height></size>
  <object><name>dog</name><bndbox><xmin>13</xmin><ymin>31</ymin><xmax>212</xmax><ymax>130</ymax></bndbox></object>
</annotation>

python -m data_prep voc Annotations --images JPEGImages --output boxes.json
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from data_prep.boxes.box import Box
from data_prep.converters.options import converter_parser, picture_problem
from data_prep.detection.convert import add_box_options, run
from data_prep.detection.files import files_below, picture_of_stem
from data_prep.detection.objects import Marked, NoBox, Sheet, numbers_of, size_of, whole
from data_prep.errors import DataError
from data_prep.records.json_text import require_regular
from data_prep.records.output import Drop, Reason

EXAMPLES = "  python -m data_prep voc Annotations --images JPEGImages --to square --output boxes.json"
EDGES = ("xmin", "ymin", "xmax", "ymax")


def sheets_of(source: Path, folder: Path) -> Iterator[Sheet | Drop]:
    """Yield the pictures of the XML files below a folder; a file that is no annotation is dropped."""
    for path in files_below(source, (".xml",)):
        where = path.name if path == source else path.relative_to(source).as_posix()
        try:
            raw = require_regular(path).read_bytes()
            if b"<!ENTITY" in raw.replace(b"\0", b""):  # UTF-16 has a NUL beside every letter
                raise ElementTree.ParseError("it defines entities")
            root = ElementTree.fromstring(raw)
        except DataError as error:
            yield Drop(Reason.BAD_BOX, f"{where}: {error.problem}")
            continue
        except (ElementTree.ParseError, ValueError, LookupError) as error:
            yield Drop(Reason.BAD_BOX, f"{where}: broken XML ({error})")
            continue
        if root.tag != "annotation":
            own = (
                "; CVAT's own XML: export it as PASCAL VOC, or as COCO for coco-boxes"
                if root.tag == "annotations"
                else ""
            )
            yield Drop(Reason.BAD_BOX, f"{where}: <{root.tag[:40]}>, expected <annotation>{own}")
            continue
        objects = [_marked(one) for one in root.findall("object")]
        size = size_of(root.findtext("size/width"), root.findtext("size/height"))
        named = root.findtext("filename", "").strip().replace("\\", "/")
        yield Sheet(_picture(named, path, folder), size, objects, where)


def _picture(named: str, path: Path, folder: Path) -> str:
    last = PurePosixPath(named).name
    found = next((name for name in (named, last) if name and picture_problem(folder, name) is None), None)
    return found or picture_of_stem(folder, [path.stem]) or named or path.stem


def _marked(one: ElementTree.Element) -> Marked:
    label = one.findtext("name", "").strip()
    try:
        left, top, right, bottom = numbers_of([one.findtext(f"bndbox/{edge}", "").strip() for edge in EDGES])
        # VOC counts pixels from 1 and includes the last one.
        return Marked(label, whole(Box(max(left - 1, 0.0), max(top - 1, 0.0), right, bottom)))
    except NoBox as error:
        return Marked(label, None, str(error))


def main(argv: Sequence[str] | None = None) -> int:
    """Convert Pascal VOC's files."""
    parser = converter_parser("voc", "Pascal VOC's XML files to questions and answers with boxes.", EXAMPLES)
    parser.add_argument("export", type=Path, help="a folder with the .xml files, or one of them")
    add_box_options(parser)
    args = parser.parse_args(argv)
    sources = [args.export] if args.export.is_file() else []
    return run(args, sheets_of(args.export, args.image_folder), "voc", sources)
