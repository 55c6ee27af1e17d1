"""Which changes of its picture leave a record's texts true, told from its words alone; rather too few than too many.

    turns = [{"from": "human", "value": "What colour is the dog on the left?"}, {"from": "gpt", "value": "brown"}]
    allowed({"image": "a.jpg", "conversations": turns})
    # frozenset({"light"}): a colour and a side are named, and a cut may take the side away

The lists are English. A record in which no common English word stands may name anything: it gets other light at most.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from data_prep.boxes.notation import read_boxes, replaced
from data_prep.boxes.rewrite import scales_of
from data_prep.boxes.told import has_shares, said_scale
from data_prep.converters.options import SHORT_ANSWER
from data_prep.records.marks import IMAGE_TOKEN
from data_prep.records.record import DataError, images_of
from data_prep.records.usable import taught


def _words(text: str, ending: str = "") -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(text.split())}){ending}\b", re.IGNORECASE)


SIDES = _words(
    "left right lefts rights leftmost rightmost left\\w+ right\\w+ east west eastern western eastward westward "
    "clockwise anticlockwise counterclockwise mirror\\w* flip\\w* revers\\w+ direction\\w* arrows? pointing points? "
    "turn\\w* dominant facing faces heading towards? sides?"
)
PLACES = _words(
    "top bottom above below under beneath over upper lower middle center centre central cent\\w+ed corners? edges? "
    "background foreground behind north south northern southern border borders frame framed cropped near nearest far "
    "farthest closest next between first last second third position positioned where location located"
)
WRITING = _words(
    "texts? reads? reading words? letters? spell\\w* writ\\w+ wrote signs? says? said label\\w* captions? titles? "
    "titled digits? plates? clocks? o.clock times? dates? logos? brands? names? named number numbers numeral\\w* "
    "printed? quot\\w+ headlines? numbered street menu\\w* maps? charts? graphs? tables? documents? forms? receipts? "
    "screens? keyboards? prices? priced? dollars? euros? cents? scores? sums? equations? "
    "thermometers? gauges? meters? dials? temperatures? speed odometers? barcodes? codes? "
    "alphabet handwrit\\w+ handed handedness chirality"
)
COLOURS = _words(
    "colou?r\\w* hues? shades? tints? tones? red\\w* green\\w* blue\\w* yellow\\w* orange\\w* purple\\w* violet\\w* "
    "pink\\w* brown\\w* black\\w* white\\w* gr[ae]y\\w* beige tan cyan teal turquoise magenta maroon navy olive lime "
    "gold\\w* silver\\w* bronze copper ivory cream\\w* scarlet crimson indigo lavender blond\\w* brunette\\w* ginger "
    "khaki coral peach rust\\w* auburn amber azure burgundy charcoal chestnut emerald fuchsia mauve mustard plum "
    "ros[eé] ruby salmon sapphire sepia taupe multicolou?red traffic seasons? autumn "
    "ripe\\w* unripe pale vivid faded stain\\w* skin flags? bruis\\w+ rash\\w* healthy"
)
LIGHT = _words(
    "bright\\w* dark\\w* dim\\w* light lights lighting lightly lit shad\\w+ sunny sun sunlight sunset sunrise "
    "night\\w* day daylight daytime dusk dawn evening morning noon cloud\\w* overcast exposure exposed "
    "overexposed underexposed contrast black\\w* white\\w* gr[ae]y\\w* silver\\w* ivory pale glow\\w* weather "
    "fog\\w* haz\\w+ x.?rays? scans? mri density opacit\\w+ lucen\\w+ intensity blond\\w* brunette\\w*"
)
COUNTS = _words(
    "many much count\\w* numbers? total all every each entire whole full empty there any only several yes "
    "few more less most least both pair pairs two three four five six seven eight nine ten eleven twelve no none "
    "visible seen see describe\\w* describing detail\\w* list lists caption"
)
ENGLISH = _words(
    "the what which who where when how why does this that these there their with it its you your identify picture "
    "photograph yes"
)
"""Words of no other common language: `in`, `an` and `was` are German, `a`, `image` and `describe` French or Spanish."""
OTHER_SCRIPT = re.compile(r"(?![\u00b0\u00d7\u2000-\u2bff])[^\u0000-\u024f]")
"""A letter or digit that is not Latin: a number in it is no word of the lists."""
CAPITALS = re.compile(r"\b[A-Z][A-Z0-9]{1,}\b|[\"“”«»]|\b\d+(?:[.:/]\d+)+\b")
DIGITS = re.compile(r"\d")
COORDINATES = re.compile(r"[\[(<]\s*-?\.?\d[\d.]*\s*[,\s]\s*-?\.?\d|<loc\d+>|<point>|<quad>|<poly", re.IGNORECASE)


def allowed(record: Mapping[str, Any]) -> frozenset[str]:
    """Return the kinds of change that leave every text of a record true; none without a picture or texts."""
    try:
        if not images_of(taught(record)):
            return frozenset()
    except DataError:
        return frozenset()
    texts = [str(turn["value"]).replace(IMAGE_TOKEN, " ") for turn in record["conversations"]]
    plain = "\n".join(replaced(text, read_boxes(text), lambda _: " ") for text in texts)
    has_boxes = any(read_boxes(text).boxes for text in texts)
    # The suffix of converters is English in a data set of any language.
    is_english = bool(ENGLISH.search(plain.replace(SHORT_ANSWER, " "))) and not OTHER_SCRIPT.search(plain)
    found = set()
    if not LIGHT.search(plain):
        found.add("light")
    if is_english and not COLOURS.search(plain):
        found.add("colour")
    if is_english and _may_move(record, texts, plain):
        # A box says where a thing is, whatever is cut off around it: `where` is then no word to be careful about.
        asked = re.sub(r"\bwhere\b", " ", plain, flags=re.IGNORECASE) if has_boxes else plain
        if not SIDES.search(asked) and not WRITING.search(asked) and not CAPITALS.search(asked):
            found.add("flip")
        named = any(words.search(asked) for words in (SIDES, PLACES, COUNTS, WRITING, DIGITS, CAPITALS))
        if not named and not _is_guessed(record, texts):
            found.add("crop")
    return frozenset(found)


def _may_move(record: Mapping[str, Any], texts: list[str], plain: str) -> bool:
    """Whether the picture may be cut or mirrored at all: it is the only one, and every place in the texts is a box."""
    if len(images_of(record)) != 1 or COORDINATES.search(plain):
        return False
    return scales_of(record, texts) is not None


def _is_guessed(record: Mapping[str, Any], texts: list[str]) -> bool:
    """Whether a box is in shares of which the record does not say: of the picture, or of the padded square (LLaVA's).

    Mirroring moves both alike, and a cut does not.
    """
    shares = (box for text in texts for box in read_boxes(text).boxes if has_shares(box))
    return said_scale(record) is None and any(shares)
