"""Answer every question of a records file: greedy, batched, left padded, with a KV cache.

Questions are answered one by one, each with its record's pictures and without the turns before it, in batches of like
length; the answers come back in the order of the questions.

    predictions = answer(loaded, questions_from(records), Path("pictures"))
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from data_prep.records.marks import IMAGE_TOKEN
from data_prep.records.record import images_of, open_image, read_records, resolve_image
from llava_finetune.data.dataset import process_image
from llava_finetune.data.masking import asked_alone, prompt_ids
from llava_finetune.data.templates import end_text
from llava_finetune.errors import UserError
from llava_finetune.evaluation import metrics
from llava_finetune.evaluation.family_answers import FamilyAsker
from llava_finetune.evaluation.kept_answers import KeptAnswers

Say = Callable[[str], None]


@dataclass(frozen=True)
class Question:
    """One question: what identifies it, the pictures it is asked about, and what counts as right."""

    id: str
    turn: int
    images: tuple[str, ...]
    text: str
    reference: str
    record: Mapping[str, Any]

    @property
    def question_type(self) -> str | None:
        """The data's own name for the kind of question: one per record, or one per turn."""
        named = metrics.kept_for(self.record, self.turn)["question_type"]
        return None if named is None else str(named)

    @property
    def asked(self) -> str:
        """The question as training shows it, its record's pictures with it."""
        humans = [turn["value"] for turn in self.record["conversations"] if turn["from"] == "human"]
        marked = [text for text in humans if text.count(IMAGE_TOKEN) == len(self.images)]
        own = next((text for text in marked if metrics.bare_question(text) == self.text), None)
        return own or asked_alone(self.text, marked[0] if marked else f"{IMAGE_TOKEN}\n" * len(self.images))

    def prediction(self, answer: str, num_tokens: int, truncated: bool) -> dict[str, Any]:
        return {
            "id": self.id,
            "turn": self.turn,
            "image": self.record.get("image"),
            "question": self.text,
            "answer": answer,
            "reference": self.reference,
            "type": metrics.question_type(self.reference),
            **metrics.kept_for(self.record, self.turn),
            "truncated": truncated,
            "num_tokens": num_tokens,
        }


def questions_from(
    records: Iterable[Mapping[str, Any]], max_images: int = 0, limit: int = 0, sample: int = 0
) -> list[Question]:
    """The questions of records in order; at most `limit`, of at most the first `max_images` records (0: all).

    `sample` draws that many of all questions at random, always the same ones, and keeps their order.
    """
    questions: list[Question] = []
    for index, record in enumerate(records):
        if max_images and index >= max_images:
            break
        for turn, text, reference in metrics.questions_of(record):
            images = tuple(images_of(record))
            questions.append(Question(str(record.get("id", index)), turn, images, text, reference, record))
    if sample and sample < len(questions):
        questions = [questions[index] for index in sorted(random.Random(0).sample(range(len(questions)), sample))]
    return questions[:limit] if limit else questions


def held_out_questions(
    path: Path, where: str, folder: Path | None, folder_flag: str, max_images: int = 0, limit: int = 0, sample: int = 0
) -> list[Question]:
    """The questions of a records file, each of which can be asked and scored: found out before hours of answering.

    Raises UserError that begins with `where` (flag and file) and names the first record without a text, a reference or
    a picture; DataError for a file that cannot be read.
    """
    try:
        questions = questions_from(read_records(path), max_images, limit, sample)
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"{where}: {error}") from error
    if not questions:
        raise UserError(f"{where}: no question with an answer in it; give human/gpt records with references")
    metrics.require_scorable([question.prediction("", 0, False) for question in questions], where)
    names = {name: question.id for question in questions for name in question.images}
    if names and folder is None:
        raise UserError(f"{where}: the questions have pictures ({next(iter(names))}), and no {folder_flag} is given")
    gone = [name for name in names if folder and not resolve_image(folder, name).is_file()]
    if gone:
        raise UserError(
            f"{where}: {len(gone)} of {len(names)} pictures are not in {folder}, first {gone[0]!r} of record "
            f"{names[gone[0]]!r}; name their folder with {folder_flag}"
        )
    return questions


def with_others_pictures(questions: Sequence[Question]) -> list[Question]:
    """The questions with a fixed rotation of their distinct pictures, so that none keeps its own.

    Raises UserError where there is only one.
    """
    distinct = list(dict.fromkeys(name for question in questions for name in question.images))
    if len(distinct) == 1:
        raise UserError("--blind shuffled needs at least two pictures; these questions have one")
    half = len(distinct) // 2
    others = dict(zip(distinct, distinct[half:] + distinct[:half], strict=True))
    return [replace(one, images=tuple(others[name] for name in one.images)) for one in questions]


class Pictures:
    """Pixel values by name, opened once. `mode`: seen, or blank (all zero: the mean colour)."""

    def __init__(self, folder: Path | None, processor: Any, config: Any, mode: str) -> None:
        self.folder, self.processor, self.config, self.mode = folder, processor, config, mode
        self.cache: dict[str, tuple[torch.Tensor, tuple[int, int]]] = {}

    def get(self, name: str) -> tuple[torch.Tensor, tuple[int, int]]:
        if self.folder is None:
            raise UserError(f"{name}: the questions have pictures, and no image folder is given")
        if name not in self.cache:
            image = open_image(resolve_image(self.folder, name))
            pixels = process_image(image, self.processor, self.config)
            self.cache[name] = (torch.zeros_like(pixels) if self.mode == "blank" else pixels, image.size)
            if len(self.cache) > 512:
                self.cache.pop(next(iter(self.cache)))
        return self.cache[name]


def _batches(order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(order), size):
        yield order[start : start + size]


@torch.inference_mode()
def answer(
    loaded: Any,
    questions: Sequence[Question],
    image_folder: Path | None,
    *,
    batch_size: int = 32,
    max_new_tokens: int = 64,
    mode: str = "seen",
    say: Say = print,
    same_passes: bool = False,
    kept: KeptAnswers | None = None,
    found: Mapping[int, dict[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Predictions for `questions`, one each, in their order. Progress with rate and time left goes to `say`.

    Each batch is added to `kept` when it is answered. `found`: predictions by their question's index, not asked again.

    With `same_passes` a batch of text alone runs the tower too, as ranks that share the weights (ZeRO-3) must.
    """
    asker: Any = (
        FamilyAsker(loaded, questions, image_folder, mode)
        if loaded.family is not None
        else _LlavaAsker(loaded, questions, image_folder, mode, same_passes)
    )
    # Like lengths together, and within a length the questions on one picture together: its pixels are read once.
    order = sorted(range(len(questions)), key=lambda index: (asker.cost(index), index))
    done = dict(found or {})
    num_found, start = len(done), time.monotonic()
    last = start
    for whole in _batches(order, batch_size):  # the same batches in a run that goes on, so the same numbers
        batch = [index for index in whole if index not in done]
        if not batch:
            continue
        for index, tokens in zip(batch, asker.generate(batch, max_new_tokens), strict=True):
            done[index] = _prediction(loaded, asker, questions[index], tokens, max_new_tokens)
        if kept:
            kept.add([(questions[index], done[index]) for index in batch])
        now = time.monotonic()
        if now - last > 10:
            last = now
            rate = (len(done) - num_found) / (now - start)
            left = (len(questions) - len(done)) / rate
            say(f"  {len(done)}/{len(questions)} questions  {rate:.1f}/s  {left:.0f} s left")
    return [done[index] for index in range(len(questions))]


def stop_ids(loaded: Any) -> list[int]:
    """Tokens that end an answer: the template's end of turn and the tokenizer's end of text."""
    if loaded.family is not None:
        return list(loaded.family.stop_ids)
    ids = loaded.tokenizer(end_text(loaded.template, loaded.tokenizer), add_special_tokens=False).input_ids
    return sorted({loaded.tokenizer.eos_token_id, *(ids if len(ids) == 1 else [])} - {None})


class _LlavaAsker:
    """Prompts of questions in upstream's layout, and the ids of answers to some of them."""

    def __init__(
        self, loaded: Any, questions: Sequence[Question], folder: Path | None, mode: str, same_passes: bool
    ) -> None:
        self.loaded, self.questions, self.same_passes = loaded, questions, same_passes
        self.prompts = [
            prompt_ids([{"from": "human", "value": question.asked}], loaded.template, loaded.tokenizer)
            for question in questions
        ]
        self.pictures = Pictures(folder, loaded.image_processor, loaded.model.config, mode)

    def cost(self, index: int) -> int:
        """The length of a question's prompt: what decides which are asked together."""
        return len(self.prompts[index])

    def generate(self, indices: Sequence[int], max_new_tokens: int) -> list[list[int]]:
        """New token ids for each of these questions."""
        images = _images(self.loaded, [self.questions[i] for i in indices], self.pictures, self.same_passes)
        return _generate(self.loaded, [self.prompts[i] for i in indices], *images, max_new_tokens)

    def text(self, tokens: Sequence[int]) -> str:
        """An answer's text, up to the template's end of turn where that is not one token."""
        text = str(self.loaded.tokenizer.decode(tokens, skip_special_tokens=True))
        tokenizer = self.loaded.tokenizer
        ending, end_id = end_text(self.loaded.template, tokenizer), tokenizer.eos_token_id
        if self.loaded.tokenizer(ending, add_special_tokens=False).input_ids != [end_id] and ending in text:
            text = text.split(ending, 1)[0]
        return text.strip()


def _generate(
    loaded: Any, prompts: Sequence[list[int]], images: Any, sizes: list[tuple[int, int]], max_new_tokens: int
) -> list[list[int]]:
    """New token ids per prompt, up to and without the stop token's padding."""
    model, width = loaded.model, max(map(len, prompts))
    pad = loaded.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=loaded.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=loaded.device)
    out = model.generate(
        ids,
        images=images,
        image_sizes=sizes,
        attention_mask=mask,
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=stop_ids(loaded),
        pad_token_id=pad,
        use_cache=True,
    )
    return [row.tolist() for row in out]


def _images(
    loaded: Any, questions: Sequence[Question], pictures: Pictures, always: bool
) -> tuple[Any, list[tuple[int, int]]]:
    found = [pictures.get(name) for question in questions for name in question.images or ()]
    if not found and not always:
        return None, []
    if any(not question.images for question in questions):
        # Upstream's splice takes one picture for a prompt of text alone; it adds no token.
        side = loaded.model.get_vision_tower().config.image_size
        blank = torch.zeros(3, side, side)
        rows = iter(found)
        found = [next(rows) if q.images else (blank, (1, 1)) for q in questions for _ in (q.images or ("",))]
    tensors = [pixels.to(device=loaded.device, dtype=loaded.dtype) for pixels, _ in found]
    same = all(tensor.shape == tensors[0].shape for tensor in tensors)
    return (torch.stack(tensors) if same else tensors), [size for _, size in found]


def _prediction(loaded: Any, asker: Any, question: Question, tokens: list[int], max_new_tokens: int) -> dict[str, Any]:
    stops = set(stop_ids(loaded))
    length = next((index for index, token in enumerate(tokens) if token in stops), None)
    kept = tokens if length is None else tokens[:length]
    return question.prediction(asker.text(kept), len(kept), length is None and len(tokens) >= max_new_tokens)
