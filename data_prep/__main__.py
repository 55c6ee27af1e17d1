"""The command line: one KIND per converter or tool, imported only when it is asked for.

python -m data_prep okvqa --help
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence

KINDS = {
    "okvqa": ("data_prep.converters.vqa", "OK-VQA questions and annotations with COCO folders"),
    "vqa": ("data_prep.converters.vqa", "VQAv2, or anything in its format"),
    "easy-vqa": ("data_prep.converters.easy_vqa", "easy-VQA from its Python package: 5,000 small pictures, no hub"),
    "captions": ("data_prep.converters.captions", "a folder of pictures and a CSV of captions"),
    "captions-template": ("data_prep.converters.captions_template", "write the CSV of captions to fill in"),
    "table": ("data_prep.converters.table", "CSV, TSV, JSONL, Excel or parquet with picture, question, answer"),
    "hf": ("data_prep.hf.command", "a data set of the Hugging Face hub, a local folder, parquet, arrow"),
    "heic": ("data_prep.converters.heic", "phone pictures (HEIC) to upright JPEG"),
    "generate": ("data_prep.generate.command", "captions and boxes to conversations, written by a language model"),
    "coco-boxes": ("data_prep.detection.coco", "COCO's instances to questions and answers with boxes"),
    "yolo": ("data_prep.detection.yolo", "YOLO's label files, with boxes"),
    "via": ("data_prep.detection.via", "the VGG Image Annotator's exports, with boxes"),
    "labelme": ("data_prep.detection.labelme", "labelme's files, with boxes"),
    "voc": ("data_prep.detection.voc", "Pascal VOC's XML files (labelImg, CVAT), with boxes"),
    "boxes": ("data_prep.tools.boxes", "boxes in records on another scale: shares, thousandths, pixels"),
    "split": ("data_prep.tools.split", "split records by picture into train, test and more"),
    "mix": ("data_prep.tools.mix", "mix several records files with weights"),
    "check": ("data_prep.check.command", "find everything that would make training fail or go wrong"),
    "show": ("data_prep.tools.show", "a page of records as the model will see them"),
    "probes": ("data_prep.tools.probes", "yes/no questions about what is and is not in the pictures"),
    "preferences": ("data_prep.tools.preferences", "pairs of a better and a worse answer, for DPO"),
    "push": ("data_prep.tools.push", "records and their pictures to a data set of the hub"),
}

ACTIVATE = "this is not the project's Python; run: source .venv/bin/activate (scripts/setup.sh makes it)"


def usage() -> str:
    """Return the overview that --help prints."""
    rows = "\n".join(f"  {kind:<18} {text}" for kind, (_, text) in KINDS.items())
    return (
        "usage: python -m data_prep KIND [options]\n\n"
        f"Turn what you have into LLaVA's human/gpt records, and check them.\n\n{rows}\n\n"
        "examples:\n"
        "  python -m data_prep okvqa --help\n"
        "  python -m data_prep table pets.csv --images photos --output records.json\n"
        "  python -m data_prep check records.json --images photos\n\n"
        "Exit status: 0 done, 1 found or failed, 2 wrong use. --debug shows the traceback of an error."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the KIND named first in `argv`; return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in {"-h", "--help"}:
        print(usage())
        return 0 if words else 2
    if words[0] not in KINDS:
        print(f"error: no kind {words[0]!r}; {_nearest(words[0])}", file=sys.stderr)
        return 2
    try:
        module = importlib.import_module(KINDS[words[0]][0])
        return int(module.main(words[1:]) if words[0] not in {"okvqa", "vqa"} else module.main(words))
    except ModuleNotFoundError as error:
        if debug or (error.name or "").partition(".")[0] in {"data_prep", "llava_finetune"}:
            raise
        print(f"error: no module {error.name}: {ACTIVATE}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped: nothing half-written was left", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _failed(error, debug)


def _failed(error: Exception, debug: bool) -> int:
    if debug:
        raise error
    from data_prep.last_resort import fault_of_ours, is_message, told

    ours = "python -m data_prep"
    print(f"error: {told(error)}" if is_message(error) else fault_of_ours(error, sys.argv, ours), file=sys.stderr)
    return int(getattr(error, "exit_code", 1))


def _nearest(word: str) -> str:
    import difflib

    near = difflib.get_close_matches(word, KINDS, 1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(KINDS)}"


def _on_a_clean_screen() -> int:
    try:
        from llava_finetune.screen import routed
    except ModuleNotFoundError as error:
        print(f"error: no module {error.name}: {ACTIVATE}", file=sys.stderr)
        return 1
    with routed("data_prep", "--debug" in sys.argv):
        return main()


def _stop(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(_on_a_clean_screen())
