"""`llava-finetune certify`: ask every engine the same questions, and certify which of them answer as the model does.

Why: "it answered well after training and badly once deployed" is the first complaint of people who tune such models.
The model in fp32 judges: an answer that differs where its two likeliest tokens are nearly equal is rounding, another
is not.

    llava-finetune certify runs/mine --engines merged transformers llama.cpp --records test.json --images pictures
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.numbers import whole
from data_prep.picture_folder import add_images_option
from llava_finetune.errors import UsageError, UserError
from llava_finetune.flags import command_parser

ENGINES = ("adapter", "merged", "transformers", "api", "llama.cpp", "vllm")
DEFAULT = ("adapter", "merged", "transformers", "api", "llama.cpp")
EXAMPLES = """examples:
  bash scripts/engines.sh llama.cpp && llava-finetune certify runs/mine --records test.json --images pictures
  llava-finetune certify runs/mine --engines vllm --records test.json --images pictures --answers 200

engines: adapter (the model as given, in its own dtype), merged, transformers (the exported folder), api (our own
server), llama.cpp (GGUF), vllm. Merged, exported and GGUF folders are made in --work and used again.
Writes certificate.json beside the model, into its report and its card.
exit codes: 0 every engine answers as the model, 1 one differs beyond rounding or failed, 2 wrong use"""


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    from llava_finetune.convert.export import TYPES

    out = command_parser(
        "certify",
        "Ask every engine the same questions and certify which answer as the model does.",
        EXAMPLES,
    )
    out.add_argument("model", help="folder that training wrote, or a merged model")
    out.add_argument(
        "--engines", nargs="+", choices=ENGINES, help=f"which to ask (default: {' '.join(DEFAULT)}, those at hand)"
    )
    out.add_argument("--records", type=Path, help="held-out records (default: the run's own test file)")
    add_images_option(out, "picture folder of --records", dest="images")
    out.add_argument("--answers", type=whole(0), default=100, help="questions to ask (default: 100)")
    out.add_argument("--max-new-tokens", type=whole(1), default=64, help="tokens of an answer at most (default: 64)")
    out.add_argument(
        "--gguf-type", choices=TYPES, default="f16", help="type of the GGUF weights for llama.cpp (default: f16)"
    )
    out.add_argument("--work", type=Path, help="folder for what is made on the way (default: MODEL-certify)")
    out.add_argument("--out", type=Path, help="the certificate's file (default: MODEL/certificate.json)")
    out.add_argument("--json", action="store_true", help="print the certificate as JSON")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Certify. 0 when every engine answers as the model does."""
    a = parser().parse_args(argv)
    if a.answers < 1:
        raise UsageError(f"--answers {a.answers}: at least one question is needed")
    found = run(a)
    print(json.dumps(found.as_json()) if a.json else "\n".join(found.lines()))
    return 0 if found.is_fine else 1


def run(a: argparse.Namespace) -> Any:
    """Ask, judge, write; returns the certificate."""
    from llava_finetune.engines.adapters import NUM_PIXELS, EngineTask
    from llava_finetune.engines.certificate import NAME, certify, not_run
    from llava_finetune.engines.conversions import Conversions
    from llava_finetune.engines.questions import read_questions
    from llava_finetune.engines.reference import TorchModel
    from llava_finetune.model.loading import load
    from llava_finetune.report.model_card import carry_card
    from llava_finetune.saved.manifest import NAME as MANIFEST
    from llava_finetune.saved.manifest import write_json
    from llava_finetune.saved.new_folder import require_file_place, require_place

    folder = Path(a.model)
    if not folder.is_dir():
        raise UserError(f"{a.model}: no such folder; give what training or merge wrote")
    work = a.work or folder.resolve().with_name(folder.resolve().name + "-certify")
    require_place(work)
    require_file_place(a.out or folder / NAME)
    chosen, absent = _at_hand(a.engines)
    records, images = _records(a)
    questions = read_questions(records, images, a.answers)
    loaded = load(str(folder), dtype="float32")
    if loaded.family is not None:
        raise UserError(
            f"{a.model}: {loaded.family.name} is of transformers' own classes, and certify asks engines for LLaVAs; "
            "llava-finetune evaluate scores it"
        )
    judge = TorchModel(loaded)
    work.mkdir(parents=True, exist_ok=True)
    pixels = [judge.pixels(question) for question in questions[:NUM_PIXELS]]
    task = EngineTask(
        Conversions(str(folder), work, a.gguf_type), questions, a.max_new_tokens, pixels, judge.loaded.context_length
    )
    say = functools.partial(print, flush=True, file=sys.stderr if a.json else sys.stdout)
    found = certify(task, chosen, judge, a.model, str(records), say)
    found.results.extend(not_run(engine, why) for engine, why in absent.items())
    write_json(a.out or folder / NAME, found.as_json())
    _show_in_report(folder)
    for made in (path.parent for path in sorted(work.glob(f"*/{MANIFEST}"))):
        carry_card(made, folder)
    return found


def _at_hand(asked: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """The engines to ask, and why others are not. Raises UserError for one that was named and is not installed."""
    from llava_finetune.environments import MODULES, engine_python

    chosen: list[str] = []
    absent: dict[str, str] = {}
    for engine in asked or DEFAULT:
        try:
            if engine in MODULES:
                engine_python(engine)
            chosen.append(engine)
        except UserError as error:
            if asked:
                raise
            absent[engine] = str(error)
    return chosen, absent


def _records(a: argparse.Namespace) -> tuple[Path, Path | None]:
    """The records to ask: as given, else those that the run itself was evaluated on."""
    from llava_finetune.merge.weights import run_records

    if a.records:
        return a.records, a.images
    found = run_records(Path(a.model))
    if found is None:
        raise UsageError(f"{a.model} names no test file that is still there; give one with --records and --images")
    return found[0], a.images or found[1]


def _show_in_report(folder: Path) -> None:
    """Make the run's page and card again, with the certificate in them, where there are any."""
    from llava_finetune.report.model_card import write_model_card
    from llava_finetune.report.writing import write_run_report

    for run in (folder, folder.resolve().parent):
        if (run / "report.html").is_file():
            write_run_report(run)
    if (folder / "README.md").is_file():
        write_model_card(folder)
