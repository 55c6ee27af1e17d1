"""Yes/no questions about what is and is not in the pictures, from one's own labels: does the model make things up?

As POPE does (Li et al. 2023): for each thing that is said of a picture one question whose answer is yes, and one about
something that other pictures have and this one has not. What is absent is drawn in three ways, which the records name
in `question_type`: `random` of all, `popular` the commonest, `adversarial` what comes together with the rest of the
picture. Short answers are asked about under their own question, descriptions and boxes by the things they name.

    python -m data_prep probes test.json --train train.json --output probes.json
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.converters.drops import say_drops
from data_prep.converters.finish import add_check_option, finish
from data_prep.converters.options import converter_parser, require_folder
from data_prep.errors import quoted
from data_prep.numbers import seed, whole
from data_prep.picture_folder import add_images_option
from data_prep.records.names import same_name
from data_prep.records.output import Converted, Drop, Origin, Reason, write_output
from data_prep.records.record import Record, Records, conversation, images_of, read_records
from data_prep.tools.presence import (
    BOXES,
    SAMPLINGS,
    THINGS,
    Album,
    Fact,
    is_short,
    kinds_of,
    labels_of,
    pairs_of,
    plain,
)

EXAMPLES = """  python -m data_prep probes test.json --train train.json --images pictures --output probes.json
  python -m data_prep probes captions.json --things things.txt --output probes.json --per-picture 6"""


def learn(album: Album, records: Records) -> None:
    """Note which words of the descriptions are things."""
    for record in records:
        for _, _, answer in pairs_of(record):
            if not is_short(text := BOXES.sub(" ", answer)):
                album.vocabulary.learn(text)


def facts_of(album: Album, record: Record, name: str) -> Iterator[tuple[Fact, list[str]] | Drop]:
    """Yield what a record says of its picture, with the answers that count as right, or why it says nothing."""
    for turn, question, answer in pairs_of(record):
        where, text = f"{name} turn {turn}", BOXES.sub(" ", answer).strip()
        if plain(text) in ("yes", "no"):
            yield Drop(Reason.YES_NO, where)
        elif question and is_short(text):
            yield Fact(question, text, kinds_of(record, turn, question), where), _accepted(record, turn)
        elif named := album.vocabulary.named(text):
            yield from ((Fact(None, thing, (THINGS,), where), []) for thing in named)
        else:
            yield Drop(Reason.NOTHING_NAMED, where)
    for label in labels_of(record):
        yield Fact(None, label, (THINGS,), f"{name} boxes"), []


def _accepted(record: Record, turn: int) -> list[str]:
    answers = record.get("answers")
    if isinstance(answers, list) and answers and isinstance(answers[0], list):
        answers = answers[turn] if turn < len(answers) else []
    return [one for one in answers if isinstance(one, str)] if isinstance(answers, list) else []


def gather(album: Album, records: Records, trained: set[str]) -> Iterator[Drop]:
    """Take every record's facts into the album; yield what can make no question, counted by turns."""
    for index in range(len(records)):
        record = records[index]
        name = str(record.get("id", f"record {index + 1}"))
        names = images_of(record)
        turns = max(1, sum(1 for _ in pairs_of(record)))
        if len(names) != 1:
            yield Drop(Reason.NO_IMAGE if not names else Reason.SEVERAL_IMAGES, name, turns)
        elif same_name(names[0]) in trained:
            yield Drop(Reason.TRAINED_ON, f"{name} ({names[0]})", turns)
        else:
            for turn, question, answer in pairs_of(record):
                album.hear(names[0], question, answer, _accepted(record, turn))
            for item in facts_of(album, record, name):
                if isinstance(item, Drop):
                    yield item
                elif not album.take(names[0], *item):
                    yield Drop(Reason.SAME, item[0].where)


def probes(album: Album, own: Sequence[str], per_picture: int, chosen_seed: int) -> Iterator[Converted | Drop]:
    """Yield for each fact of each picture a question whose answer is yes, and one whose answer is no."""
    made = 0
    for picture in own:
        draw = random.Random(f"{chosen_seed} {picture}")
        facts = list(album.pictures[picture].facts)
        draw.shuffle(facts)
        used: set[str] = set()
        kept = 0
        for fact in facts:
            if per_picture and kept == per_picture:
                yield Drop(Reason.ENOUGH, fact.where)
                continue
            sampling = SAMPLINGS[made % len(SAMPLINGS)]
            absent = album.absent(picture, fact, sampling, draw, used)
            if absent is None:
                yield Drop(Reason.NO_OTHER_ANSWER, f"{fact.where}: {quoted(fact.answer)}")
                continue
            used.add(plain(absent))
            made, kept = made + 1, kept + 1
            yield Converted(_probe(picture, fact, album.spelled[plain(fact.answer)], "yes", sampling, made))
            yield Converted(_probe(picture, fact, absent, "no", sampling, made), rows=0)


def _probe(picture: str, fact: Fact, answer: str, expected: str, sampling: str, number: int) -> Record:
    article = "an" if answer[:1].lower() in "aeiou" else "a"
    asked = (
        f"{fact.question} Is the answer {answer}?" if fact.question else f"Is there {article} {answer} in the image?"
    )
    return {
        "id": f"probe-{number}-{expected}",
        "image": picture,
        "conversations": conversation([(f"{asked} Answer with yes or no.", expected)]),
        "question_type": sampling,
        "made_from": fact.where,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Write the questions and say what could make none."""
    parser = converter_parser("probes", "Yes/no questions about what is and is not in the pictures.", EXAMPLES)
    parser.add_argument("records", type=Path, help="records whose pictures are asked about: those of the test split")
    parser.add_argument(
        "--train", type=Path, help="training records: their answers too may be asked about, their pictures are left out"
    )
    parser.add_argument("--output", type=Path, required=True, help="records to write, .json or .jsonl")
    add_images_option(parser, "the pictures' folder, for the check")
    parser.add_argument("--things", type=Path, help="the things that descriptions name, one a line; default: found")
    parser.add_argument(
        "--per-picture", type=whole(0), default=3, help="pairs of questions about a picture at most; 0: all; default 3"
    )
    parser.add_argument("--seed", type=seed, default=0, help="another seed draws other questions")
    add_check_option(parser)
    args = parser.parse_args(argv)
    if args.image_folder:
        require_folder(args.image_folder)
    records = read_records(args.records)
    train = read_records(args.train) if args.train else None
    album = Album(_things(args.things) if args.things else ())
    items = _all(album, records, train, args)
    choices = {"per_picture": args.per_picture, "seed": args.seed}
    sources = [path for path in (args.records, args.train, args.things) if path]
    counts = write_output(args.output, items, Origin("probes", sources, args.image_folder, choices))
    print(f"{args.output}: {counts}")
    say_drops(counts, args.output)
    print(
        f"  {counts.records} questions, {counts.records // 2} with the answer yes and as many with no; what is absent "
        f"is drawn {', '.join(SAMPLINGS)} in turn"
    )
    if train is None:
        print("  without --train nothing says whether these pictures were trained on")
    return finish(args.output, args.image_folder, args.check)


def _all(album: Album, records: Records, train: Records | None, args: argparse.Namespace) -> Iterator[Converted | Drop]:
    learn(album, records)
    trained: set[str] = set()
    if train is not None:
        learn(album, train)
        trained = {same_name(name) for record in train for name in images_of(record)}
        for _ in gather(album, train, set()):
            pass  # what the training records cannot say is nobody's question
    others = set(album.pictures)
    yield from gather(album, records, trained)
    yield from probes(album, [name for name in album.pictures if name not in others], args.per_picture, args.seed)


def _things(path: Path) -> list[str]:
    from data_prep.records.json_text import BOM, decode_utf8, require_regular

    text = decode_utf8(require_regular(path, "list of things").read_bytes().removeprefix(BOM), path)
    return [line.strip() for line in text.splitlines() if line.strip()]
