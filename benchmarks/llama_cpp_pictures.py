"""How far llama.cpp's padding moves a model's answers to pictures that are not square, and what helps.

llama.cpp resizes a picture, then pads it, always in (122, 116, 104); training pads first, in its processor's mean, or
cuts a square out of the middle. Each question's picture is cut to 8 by 5. The model in torch answers in fp32, with
CLIP's class token where llama.cpp has it, so that only the padding differs; the engine runs the F32 file.

    python -m benchmarks.llama_cpp_pictures runs/mine --records test.json --images DATA --work build/w
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llava.mm_utils import expand2square

from llava_finetune.engines.adapters import EngineTask, ask_llama_cpp
from llava_finetune.engines.answers import Answer, Question
from llava_finetune.engines.class_token import class_token_last
from llava_finetune.engines.conversions import Conversions
from llava_finetune.engines.judging import first_token_difference
from llava_finetune.engines.questions import read_questions
from llava_finetune.engines.reference import TorchModel
from llava_finetune.model.loading import load

ENGINES_COLOUR = (122, 116, 104)


def with_pictures(questions: Sequence[Question], change: Callable[[Any], Any]) -> list[Question]:
    """The same questions about changed pictures."""
    out = []
    for one in questions:
        turns = tuple(replace(turn, pictures=tuple(map(change, turn.pictures))) for turn in one.turns)
        out.append(replace(one, turns=turns))
    return out


def cut(picture: Any) -> Any:
    """The middle of a picture, 8 wide and 5 high."""
    width, height = picture.size
    return picture.crop((0, height * 3 // 16, width, height * 3 // 16 + width * 5 // 8))


def middle(picture: Any) -> Any:
    """The square in the middle of a wide picture, as the processor cuts it out."""
    left = (picture.width - picture.height) // 2
    return picture.crop((left, 0, left + picture.height, picture.height))


def main() -> None:
    """Ask, compare, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--answers", type=int, default=50)
    parser.add_argument("--work", type=Path, required=True)
    a = parser.parse_args()
    whole = read_questions(a.records, a.images, a.answers)
    raw = with_pictures(whole, cut)
    model = TorchModel(load(str(a.model), dtype="float32"))
    config = model.loaded.model.config
    own = tuple(int(255 * value) for value in model.loaded.image_processor.image_mean)
    square = with_pictures(raw, lambda picture: expand2square(picture, own))
    in_engines_colour = with_pictures(raw, lambda picture: expand2square(picture, ENGINES_COLOUR))
    a.work.mkdir(parents=True, exist_ok=True)
    conversions = Conversions(str(a.model), a.work, "f32")

    def engine(questions: Sequence[Question]) -> Sequence[Answer]:
        return ask_llama_cpp(EngineTask(conversions, questions, 8, [], model.loaded.context_length)).answers

    def torch(questions: Sequence[Question], aspect_ratio: str = "pad") -> Sequence[Answer]:
        config.image_aspect_ratio = aspect_ratio
        with class_token_last(model.loaded.model):
            return [model.answer(one, 8) for one in questions]

    padded_first, cropped, given = torch(square), torch(raw, "square"), engine(raw)
    print(f"{len(raw)} questions, pictures of 8 by 5, mean {own}; first tokens apart, identical answers")
    for name, reference, answers in (
        ("whole square pictures", torch(whole), engine(whole)),
        (f"as they are, against training that pads in {own}", padded_first, given),
        (f"as they are, against padding first in {ENGINES_COLOUR}", torch(in_engines_colour), given),
        ("as they are, against training on squares (crop)", cropped, given),
        ("padded before they are sent", padded_first, engine(square)),
        ("cut before they are sent, against training on squares (crop)", cropped, engine(with_pictures(raw, middle))),
        ("torch alone: the colour of the padding", padded_first, torch(in_engines_colour)),
    ):  # fmt: skip
        same = sum(one.text == two.text for one, two in zip(reference, answers, strict=True))
        print(f"{name:<63} {first_token_difference(reference, answers):.1e}  {same} of {len(raw)}", flush=True)


if __name__ == "__main__":
    main()
