"""`llava-finetune merge`: add an adapter, its projector and its tower into the base, and verify that it answers alike.

Why: a merged folder is what export, vLLM and further training read. It only appears when, read back from disk, it
answers word for word as chat, evaluate and serve do with the adapter (they add it into the weights as they load it, by
the same code), when its logits are those of base plus adapter side by side within the dtype's rounding, nothing is NaN
and every tensor is accounted for.

    llava-finetune merge runs/mine merged
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep.numbers import whole
from data_prep.picture_folder import add_images_option
from llava_finetune.errors import UserError
from llava_finetune.flags import command_parser
from llava_finetune.saved.model_files import ADAPTER_CONFIG, PROJECTOR_WEIGHTS

EXAMPLES = """examples:
  llava-finetune merge runs/mine merged
  llava-finetune merge runs/mine merged --records test.json --images pictures --answers 100
  llava-finetune merge runs/mine merged --dtype float32 --base /models/llava-v1.5-7b
  llava-finetune merge runs/mine merged --compare-4bit

The base is the one that the adapter's llava_finetune.json names; its weights' hash is checked. Held-out records come
from --records, else from the run's evaluation file, else generated pictures and questions are asked.
exit codes: 0 done, 1 refused or failed, 2 wrong use"""

DTYPES = ("auto", "bfloat16", "float32", "float16")


@dataclass(frozen=True)
class HeldOut:
    """What to verify on: a records file and its image folder, how many for logits, how many for greedy answers."""

    records: Path | None = None
    images: Path | None = None
    num_records: int = 8
    num_answers: int = 0


@dataclass(frozen=True)
class Merged:
    """What was written and how it was verified; differences are of logits over all text positions of all records.

    Of `answers` greedy answers, all are those of the adapter as every command loads it; `same_beside` are also those of
    the adapter run beside the base, as in training, whose activations round at other places. `layout`: upstream's, or
    transformers' for its own families.
    """

    adapter: str
    folder: str
    base: str | None
    dtype: str
    tensors: int
    adapted: int
    records: int
    source: str
    largest_difference: float
    allowed: float
    answers: int
    same_beside: int
    difference_4bit: float | None
    seconds: float
    layout: str = "upstream"


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    out = command_parser(
        "merge",
        "Merge an adapter (or a projector) into its base, in upstream's layout, verified.",
        EXAMPLES,
    )
    out.add_argument("adapter", help="folder that training wrote: a LoRA adapter, or a projector")
    out.add_argument("output", type=Path, help="folder to write; must be new or empty")
    out.add_argument("--base", help="the base, when it is not where the manifest says; its hash must be the same")
    out.add_argument(
        "--dtype", choices=DTYPES, default="auto", help="dtype to merge and save in (default: the training's)"
    )
    out.add_argument("--device", default="auto", help="where to merge (default: auto)")
    out.add_argument("--records", type=Path, help="held-out records to verify on")
    add_images_option(out, "picture folder of --records", dest="images")
    out.add_argument("--num-records", type=whole(1), default=8, help="records whose logits are compared (default: 8)")
    out.add_argument(
        "--answers",
        type=whole(0),
        help="questions whose greedy answers must be identical (default: 8 where records are at hand)",
    )
    out.add_argument(
        "--compare-4bit", action="store_true", help="print how far 4-bit merged is from 4-bit base plus adapter"
    )
    out.add_argument("--json", action="store_true", help="print the result as JSON")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when the folder was written and verified."""
    a = parser().parse_args(argv)
    from llava_finetune.report.model_card import write_model_card

    if a.answers is None:
        from llava_finetune.merge.weights import run_records

        a.answers = 8 if a.records or run_records(Path(a.adapter)) else 0
    held_out = HeldOut(a.records, a.images, a.num_records, a.answers)
    result = merge(
        a.adapter, a.output, base=a.base, dtype=a.dtype, device=a.device, held_out=held_out, compare_4bit=a.compare_4bit
    )
    write_model_card(a.output, Path(a.adapter) if Path(a.adapter).is_dir() else None)
    print(json.dumps(asdict(result)) if a.json else describe(result))
    return 0


def describe(result: Merged) -> str:
    """The result in words."""
    lines = [
        f"{result.folder}: {result.tensors} tensors in {result.dtype}, {result.adapted} layers adapted, "
        f"base {result.base}",
        f"verified on {result.records} {result.source}: logits of merged and adapter differ by at most "
        f"{result.largest_difference:.2e} (allowed {result.allowed:.1e}), no NaN, every tensor accounted for",
    ]
    if result.answers:
        lines.append(
            f"greedy answers: {result.answers} of {result.answers} identical to those of {result.adapter} as chat, "
            f"evaluate and serve load it; {result.same_beside} to those of the adapter run beside its base"
        )
    if result.difference_4bit is not None:
        lines.append(f"4-bit: logits of merged and of base plus adapter differ by at most {result.difference_4bit:.2e}")
    following = f"llava-finetune export {result.folder} exported"
    if result.layout == "transformers":
        following = f"it is in transformers' own layout: llava-finetune evaluate --model {result.folder}"
    return "\n".join([*lines, f"{result.seconds:.0f} s; next: {following}"])


def merge(
    adapter: str,
    output: Path,
    *,
    base: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    held_out: HeldOut | None = None,
    compare_4bit: bool = False,
) -> Merged:
    """Merge, verify what was written, and let the folder appear.

    Raises UserError, and writes nothing, for a base with other weights (both hashes and names are shown), a NaN, a
    tensor that is missing or not in the base, logits that differ by more than the dtype's noise, or another answer.
    """
    from llava_finetune.merge import weights
    from llava_finetune.model.loaded import kind_of
    from llava_finetune.saved import new_folder

    start = time.monotonic()
    new_folder.check_free(output)
    if kind_of(adapter) == "model":
        raise UserError(f"{adapter} is a whole model: it has no {ADAPTER_CONFIG} or {PROJECTOR_WEIGHTS} to merge")
    wanted = held_out or HeldOut()
    beside = _ask_beside(adapter, base, dtype, device, wanted)
    gc.collect()
    with new_folder.new_folder(output) as partial:
        answers, layout, tensors = _write(partial, adapter, base, beside, wanted)
        gc.collect()
        found = _check(partial, adapter, beside, answers, wanted)
        four = _compare_4bit(adapter, base, partial, beside) if compare_4bit else None
        weights.note_check(partial, found, len(beside.cases), len(answers))
    return Merged(
        adapter=adapter,
        folder=str(output),
        base=beside.base,
        dtype=beside.dtype,
        tensors=tensors,
        adapted=beside.adapted,
        records=len(beside.cases),
        source=beside.source,
        largest_difference=found.largest,
        allowed=found.allowed,
        answers=len(answers),
        same_beside=sum(a == b for a, b in zip(answers, beside.answers, strict=True)),
        difference_4bit=four,
        seconds=time.monotonic() - start,
        layout=layout,
    )


@dataclass(frozen=True)
class _Beside:
    """The adapter run beside its base: what it was asked, its logits and answers, and what was found on the way."""

    cases: list[Any]
    source: str
    logits: list[Any]
    answers: list[str]
    adapted: int
    in_tower: bool
    base: str
    dtype: str
    device: str


def _ask_beside(adapter: str, base: str | None, dtype: str, device: str, wanted: HeldOut) -> _Beside:
    """Load base and adapter unmerged and ask them."""
    from llava_finetune.merge import weights
    from llava_finetune.model.loading import load

    loaded = load(adapter, base=base, dtype=dtype, device=device, merge_adapter=False)
    cases, source = weights.load_cases(adapter, loaded, wanted.records, wanted.images, wanted.num_records)
    adapted, in_tower = weights.check_adapter_read(loaded.model, Path(adapter))
    return _Beside(
        cases=cases,
        source=source,
        logits=weights.logits_of(loaded, cases),
        answers=greedy_answers(loaded, adapter, wanted),
        adapted=adapted,
        in_tower=in_tower,
        base=str(base or loaded.manifest["base"]),  # load() has checked it
        dtype=str(loaded.dtype).removeprefix("torch."),
        device=str(loaded.device),
    )


def _write(
    folder: Path, adapter: str, base: str | None, beside: _Beside, wanted: HeldOut
) -> tuple[list[str], str, int]:
    """Write the merged model; returns its answers, its layout and the number of its tensors."""
    from llava_finetune.merge import weights
    from llava_finetune.model.loading import load

    # As chat, evaluate and serve load it: the product of the factors is added in fp32 and rounded once.
    folded = load(adapter, base=base, dtype=beside.dtype, device=beside.device)
    answers = greedy_answers(folded, adapter, wanted)
    layout = "upstream" if folded.family is None else "transformers"
    tensors = weights.write_model(folder, folded, Path(adapter), beside.base, in_tower=beside.in_tower)
    return answers, layout, tensors


def _check(folder: Path, adapter: str, beside: _Beside, answers: list[str], wanted: HeldOut) -> Any:
    """Load what was written and compare it with the adapter; returns the difference of logits."""
    from llava_finetune.merge import weights
    from llava_finetune.model.loading import load

    again = load(str(folder), dtype=beside.dtype, device=beside.device)
    found = weights.difference(beside.logits, weights.logits_of(again, beside.cases), again.dtype)
    if not found.largest <= found.allowed:
        raise UserError(
            f"{adapter}: merged logits differ from the adapter's by {found.largest:.2e}, "
            f"allowed {found.allowed:.1e} in {beside.dtype}; nothing was written (try --dtype float32)"
        )
    pairs = list(zip(answers, greedy_answers(again, adapter, wanted), strict=True))
    other = next((pair for pair in pairs if pair[0] != pair[1]), None)
    if other is not None:
        same = sum(a == b for a, b in pairs)
        raise UserError(
            f"{adapter}: {same} of {len(pairs)} greedy answers are identical, first difference: the adapter answers "
            f"{other[0]!r}, the merged folder {other[1]!r}; nothing was written"
        )
    return found


def greedy_answers(loaded: Any, adapter: str, wanted: HeldOut) -> list[str]:
    """Greedy answers to the first `wanted.num_answers` held-out questions, none when none are asked for."""
    if not wanted.num_answers:
        return []
    from data_prep.records.record import read_records
    from llava_finetune.evaluation.generate_answers import answer, questions_from
    from llava_finetune.merge.weights import run_records

    found = (wanted.records, wanted.images) if wanted.records else run_records(Path(adapter))
    if found is None or found[0] is None:
        raise UserError(f"--answers {wanted.num_answers}: no held-out records; give them with --records and --images")
    questions = questions_from(read_records(found[0]), limit=wanted.num_answers)
    return [str(prediction["answer"]) for prediction in answer(loaded, questions, found[1])]


def _compare_4bit(adapter: str, base: str | None, merged: Path, beside: _Beside) -> float:
    """How far the merged model in 4 bit is from the base in 4 bit plus the adapter."""
    from llava_finetune.merge import weights
    from llava_finetune.model.loading import load

    over_base = load(adapter, base=base, bits=4, device=beside.device, merge_adapter=False)
    expected = weights.logits_of(over_base, beside.cases)
    folded = load(str(merged), bits=4, device=beside.device)
    return weights.difference(expected, weights.logits_of(folded, beside.cases), folded.dtype).largest
