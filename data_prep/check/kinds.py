"""The kinds of trouble that a check finds: a closed list, each with how bad it is, why, and what to do.

The table of the docs is made from this list:

    python -m data_prep check --list
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from data_prep.errors import PictureFault


class Severity(Enum):
    """ERROR: training would fail or learn the wrong thing. WARNING: look at it. NOTE: good to know."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Kind:
    """One kind of trouble; `why` says what happens in training, `remedy` what to do, `fixed` what --fix does."""

    name: str
    severity: Severity
    why: str
    remedy: str
    fixed: str = ""


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        # the text of the file
        Kind("broken record", _E, "the record cannot be parsed", "mend that line", "drops it"),
        Kind("no conversation", _E, "training reads the list under `conversations`",
             "convert it: python -m data_prep hf or table", "drops it"),
        Kind("unknown role", _E, "upstream knows `human` and `gpt` only and stops with a KeyError",
             "rename the role; a system text belongs before the first question",
             "user becomes human, assistant and bot become gpt, in capitals too; a first system turn goes before the "
             "question; others: drops the record"),
        Kind("turns not alternating", _E, "upstream asserts human, gpt, human, gpt ... and dies with `assert 1`",
             "merge or reorder the turns", "merges neighbours of one role; drops a first gpt and a last human turn"),
        Kind("text not a string", _E, "upstream concatenates texts and fails on a number or null",
             "write it as a string", "numbers become text; others, and NaN: drops the record"),
        Kind("empty text", _E, "an empty answer has no token to learn, and shifts upstream's masks", "write it",
             "drops the question and its answer"),
        Kind("answer is nan", _W, "pandas writes nan for a cell without a value: the model would learn to say it",
             "write the answer, or leave the record out, unless nan is meant"),
        Kind("broken Unicode", _E, "half of a surrogate pair: tokenizers refuse it", "write the character again",
             "removes the half characters"),
        Kind("end token in text", _E, "the model would learn to stop there, and upstream masks the whole sample",
             "remove the token from the text", "removes it"),
        Kind("role marker in text", _W, "`USER:` or `ASSISTANT:` inside a text looks like a new turn",
             "check that it is meant"),
        Kind("text not clean", _W, "escapes of HTML, control characters, letters of a wrong encoding are learned",
             "clean the text where it comes from; a table's encoding: --encoding"),
        Kind("mark of another tool", _E, "<image1>, <img>a.jpg</img>, <video> ... are learned letter by letter",
             "write <image> for each picture; videos are not taken",
             "a picture's mark becomes <image>, its name goes to `image`; others: drops the record"),
        Kind("pair not whole", _E, "DPO needs a question and two answers to it, `chosen` and `rejected`, both texts",
             "write both answers, or make pairs: python -m data_prep preferences"),
        Kind("chosen is rejected", _E, "both answers are the same: nothing is preferred, and nothing is learned",
             "write the worse answer under `rejected`, or remove the record"),
        Kind("pair without a picture", _W, "what is preferred cannot be about what is seen",
             "name the picture, when there is one"),
        Kind("key nothing reads", _W, "another tool's key, and training does not see what it holds",
             "put it into the conversation, or convert with python -m data_prep hf"),
        # pictures and their tokens
        Kind("picture without <image>", _E, "the picture is silently ignored: upstream trains on the text alone",
             "begin the first question with <image>", "adds it"),
        Kind("<image> without picture", _E, "upstream takes the next record's picture, or stops with an IndexError",
             "name the picture, or remove <image>", "removes it"),
        Kind("<image> count", _E, "pictures and <image> tokens do not pair up, so pictures shift to wrong questions",
             "one <image> for each picture", "adds or removes at the front"),
        Kind("<image> in answer", _E, "the model cannot write a picture; upstream splices one into the answer",
             "remove it from the answer", "removes it"),
        Kind("wrong image key", _E, "training reads `image`; under another name the picture is silently ignored",
             "rename the key to `image`", "renames it"),
        Kind("image not a name", _E, "`image` must be a name or a list of names", "write the file's name", "drops it"),
        Kind(PictureFault.MISSING.value, _E, "the run stops when it comes to this record",
             "correct --images or the name", "writes the name of the one file that fits; else drops it"),
        Kind(PictureFault.OUTSIDE.value, _E, "a name must not lead out of the image folder",
             "name pictures relative to the folder", "writes the name of the one file that fits; else drops it"),
        Kind(PictureFault.NOT_A_PICTURE.value, _E, "the run stops when it comes to this record",
             "do what is said of it, or fetch it again", "drops it"),
        Kind(PictureFault.TRUNCATED.value, _E, "the run stops when it comes to this record", "fetch it again",
             "drops it"),
        Kind(PictureFault.HUGE.value, _E, "it is, or becomes in a model's processor, gigabytes in every worker",
             "make it smaller, or allow more with --max-pixels (--max_pixels in training)", "drops it"),
        Kind(PictureFault.UNREADABLE.value, _E, "the run stops when it comes to this record", "fetch it again",
             "drops it"),
        Kind("wrong extension", _N, "the bytes are of another kind than the name says; it is read by its bytes",
             "nothing here; other tools may stumble"),
        Kind("more than 8 bits", _N, "a model sees 256 greys: values are put on a fixed scale that holds them",
             "nothing, when the scale is right; else write 8 bits yourself, in the window that shows what is asked"),
        Kind("several scales", _W, "the same value is another grey in another picture of this data",
             "write all pictures with 8 bits on one scale"),
        Kind("few greys", _W, "of 256 greys at most 16 are used: what differs in the picture may be lost",
             "write it with 8 bits, in the window that shows what is asked"),
        Kind("no number", _W, "values that are no number (NaN) become black", "fill them with a value that is meant"),
        Kind("animated", _W, "only the first frame is seen", "check that the first frame shows what is asked"),
        Kind("tiny picture", _W, "under 16 pixels a side there is little to see", "check that it is meant"),
        Kind("turned by EXIF", _N, "shown upright here; upstream would train on it sideways", "nothing here"),
        Kind("same picture twice", _N, "two names for the same bytes", "use one name: split keeps them together"),
        Kind("similar pictures", _N, "they look the same at low resolution", "split by picture does not see that"),
        # boxes in texts
        Kind("box not readable", _W, "marks of a box without its four numbers: no place is taught",
             "write four numbers: left, top, right, bottom"),
        Kind("box reversed", _W, "its second corner is not right of and below its first: no place is taught",
             "write left, top, right, bottom; x, y, width, height: python -m data_prep boxes --order xywh"),
        Kind("box outside the picture", _W, "the model would learn to point at what is not there",
             "correct the box, or its scale: python -m data_prep boxes --from"),
        Kind("boxes on several scales", _W, "the same place has different numbers in different records",
             "write all on one scale: python -m data_prep boxes --to"),
        # the whole file
        Kind("no records", _E, "there is nothing to learn", "see what the converter dropped"),
        Kind("no id", _N, "reports and predictions name records by id", "give each record an id", "numbers it"),
        Kind("id twice", _W, "predictions of the two cannot be told apart", "make ids unique", "adds -2, -3 ..."),
        Kind("record twice", _W, "the same picture and text: it counts double", "remove one", "drops the later"),
        Kind("no picture", _N, "text-only records: fine as a part of a mixture", "nothing, when meant"),
        Kind("one answer only", _W, "every answer is the same: the model learns to say it without looking",
             "add other answers"),
        Kind("one answer rules", _N, "one answer makes more than half: compare scores with the text prior",
             "balance the answers or keep it in mind"),
        Kind("picture in train and test", _E, "the test would measure memory, not sight",
             "split by picture: python -m data_prep split", "drops it from this file"),
        Kind("similar in train and test", _W, "a test picture looks like a training picture at low resolution",
             "look at the pairs on the page (--html)"),
        # with --model
        Kind("edges cut off", _W, "the model sees the square in the middle, what is left and right of it (or above and "
             "below) is never seen",
             "cut the pictures so that what is asked lies in the middle, pad them to squares, or train with "
             "--image_aspect_ratio pad --override_config True"),
        Kind("no supervised token", _E, "nothing is learned from it (loss 0 or NaN)", "give it an answer", "drops it"),
        Kind("answer cut off", _W, "longer than the model's context with its picture: the end is never learned",
             "shorten it, split the conversation, or raise --model_max_length"),
        Kind("not tokenizable", _E, "the model's tokenizer or template refuses it", "see the message", "drops it"),
    )
}  # fmt: skip
