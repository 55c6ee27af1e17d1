"""Families of transformers' own classes: trained by the same command, to transformers' own losses."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from data_prep.records.marks import IMAGE_TOKEN_INDEX
from data_prep.tools.show import main as show
from data_prep.view.model_view import open_model
from llava_finetune.convert.export import export
from llava_finetune.convert.importing import import_model
from llava_finetune.errors import UserError
from llava_finetune.evaluation.evaluate import main as evaluate
from llava_finetune.evaluation.generate_answers import answer, questions_from
from llava_finetune.merge.command import HeldOut, merge
from llava_finetune.model.families.encoder import FamilyCollator, FamilyEncoder
from llava_finetune.model.families.family import TEMPLATE
from llava_finetune.model.families.known import TYPES, open_family
from llava_finetune.model.families.loading import load_beside
from llava_finetune.model.loading import load
from llava_finetune.saved.supported import FAMILIES
from tests.families.two_stages import outspoken
from tests.tiny_families import BUILDERS, make_tiny_family
from tests.training.conftest import assert_same_random_state, assert_same_run, begun, rows_of
from tests.training.forked import at_step, die, train

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("ready_to_fork")
IGNORE = -100
LORA = "--lora_enable True --lora_r 4 --lora_alpha 8 --lora_dropout 0 --lora_targets language,projector,vision"
QLORA = "--lora_enable True --lora_r 4 --lora_dropout 0 --bits 4"


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model of every family."""
    folder = tmp_path_factory.mktemp("families")
    return {name: make_tiny_family(folder / name, name) for name in BUILDERS}


def record(name: str, pictures: Sequence[str], *turns: str, **more: Any) -> dict[str, Any]:
    """A record of these turns, the human's first."""
    said = [{"from": ("human", "gpt")[index % 2], "value": text} for index, text in enumerate(turns)]
    image = {"image": list(pictures) if len(pictures) > 1 else pictures[0]} if pictures else {}
    return {"id": name, "conversations": said, **image, **more}


RECORDS = [
    record(
        "one", ["wide.png"], "<image>\nWhat is the color of the shape?", "The shape is a red circle.",
        "Is there a blue triangle?", "No 🙂\n\n  é",
    ),
    record("two", ["tall.png", "small.png"], "<image>\n<image>\nHow many squares are there?", "Two."),
    record("text", [], "Is black gray?", "Yes."),
    record("long", ["long.png"], "What is in this picture? <image>", "A green circle. Yes"),
]  # fmt: skip


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.json: one, several and no picture, of shapes that are cut into unlike numbers of tiles."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for name, size in (("wide", (100, 60)), ("tall", (60, 100)), ("small", (50, 50)), ("long", (300, 60))):
        pixels = random.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / "train.json").write_text(json.dumps(RECORDS))
    return folder


def flags(base: Path, data: Path, output: Path, more: str) -> list[str]:
    """A run's command line: every step sees all four records."""
    return (
        f"--model_name_or_path {base} --data_path {data / 'train.json'} --image_folder {data} --output_dir {output} "
        "--precision fp32 --learning_rate 2e-3 --lr_scheduler_type constant --per_device_train_batch_size 4 "
        "--max_steps 10 --save_steps 5 --dataloader_num_workers 0 --check_data False --seed 7 --optim adamw_torch "
        f"{more}"
    ).split()


@pytest.fixture(scope="session")
def runs(bases: dict[str, Path], data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs of ten steps by family and mode, made once."""
    made: dict[str, Path] = {}

    def run(name: str, mode: str) -> Path:
        key = f"{name} {mode}"
        if key not in made:
            folder = tmp_path_factory.mktemp("runs")
            code, text = train(flags(bases[name], data, folder / "run", mode), folder / "out")
            assert code == 0, text
            made[key] = folder / "run"
        return made[key]

    return run


# ---- the other side: transformers' processor and model, text and labels made by hand ----


def own_processor(base: Path) -> Any:
    """transformers' processor of a folder; SmolVLM's own needs packages for videos, and writes what Idefics3's does."""
    import transformers

    class WithoutVideo(transformers.LlavaOnevisionProcessor):
        def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
            return None if argument is None else super().check_argument_for_proper_class(name, argument)

    pictures = transformers.AutoImageProcessor.from_pretrained(base, backend="pil")
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    tokenizer.padding_side = "right"
    kind = json.loads((base / "config.json").read_text())["model_type"]
    if kind == "idefics":
        return transformers.IdeficsProcessor(pictures, tokenizer)
    values = json.loads((base / "processor_config.json").read_text())
    values.pop("processor_class")
    if kind == "llava_onevision":
        return WithoutVideo(pictures, tokenizer, None, **values)
    own = transformers.Idefics2Processor if kind == "idefics2" else transformers.Idefics3Processor
    return own(pictures, tokenizer, **values)


def by_hand(name: str, one: dict[str, Any]) -> list[tuple[str, bool]]:
    """The record's text as the family writes it, in pieces that are taught or not."""
    out: list[tuple[str, bool]] = []
    for turn in one["conversations"]:
        text, marks = turn["value"], turn["value"].count("<image>")
        if name == "llava_onevision":
            words = text.replace("<image>", "").strip("\n")
            if turn["from"] == "human":
                asked = f"<|im_start|>user {'<image>' * marks}\n{words}<|im_end|>"
                out.append((asked + "<|im_start|>assistant\n", False))
            else:
                out.append((text + "<|im_end|>", True))
        elif turn["from"] == "human":
            space = "" if text.startswith("<image>") else " "
            words = re.sub(r"\n*<image>\n*", "<image>", text)
            out.append((f"User:{space}{words}<end_of_utterance>\nAssistant:", False))
        else:
            out += [(f" {text}<end_of_utterance>", True), ("\n", False)]
    begin = {"idefics3": "<|begin_of_text|>", "smolvlm": "<|im_start|>"}.get(name, "")
    return [(begin + out[0][0], False), *out[1:]]


def pictures_of(one: dict[str, Any], data: Path) -> list[Any]:
    names = one.get("image", [])
    return [Image.open(data / name).convert("RGB") for name in ([names] if isinstance(names, str) else names)]


def processed(processor: Any, texts: Sequence[str], pictures: Sequence[Sequence[Any]], **how: Any) -> Any:
    """What transformers' processor makes of texts with their pictures."""
    if type(processor).__name__ == "IdeficsProcessor":
        prompts = []
        for text, given in zip(texts, pictures, strict=True):
            first, *rest = text.split("<image>")
            pieces = [first, *(part for pair in zip(given, rest, strict=True) for part in pair)]
            prompts.append([part for part in pieces if not isinstance(part, str) or part])
        return processor(text=prompts, **how)
    bos = processor.tokenizer.bos_token
    some = [list(given) for given in pictures if given or "Onevision" not in type(processor).__mro__[1].__name__]
    images = {"images": some} if any(pictures) else {}
    return processor(text=list(texts), add_special_tokens=not texts[0].startswith(bos), **images, **how)


def by_growing_prefixes(processor: Any, name: str, one: dict[str, Any], data: Path) -> tuple[list[int], list[int]]:
    """Ids and labels by asking the processor again for each prefix of the text: no offsets."""
    pictures, pieces = pictures_of(one, data), by_hand(name, one)
    made = [""]
    for text, _ in pieces:
        made.append(made[-1] + text)
    grown = [processed(processor, [text], [pictures[: text.count("<image>")]])["input_ids"][0] for text in made[1:]]
    whole = [int(token) for token in grown[-1]]
    labels, start = [IGNORE] * len(whole), 0
    for (_, taught), ids in zip(pieces, grown, strict=True):
        if taught:
            labels[start : len(ids)] = whole[start : len(ids)]
        start = len(ids)
    return whole, labels


def own_batch(name: str, base: Path, data: Path) -> dict[str, Any]:
    """All records as one batch by transformers' processor, labels from growing prefixes."""
    processor = own_processor(base)
    texts = ["".join(text for text, _ in by_hand(name, one)) for one in RECORDS]
    made = processed(processor, texts, [pictures_of(one, data) for one in RECORDS], padding=True, return_tensors="pt")
    labels = torch.full_like(made["input_ids"], IGNORE)
    for row, one in enumerate(RECORDS):
        found = by_growing_prefixes(processor, name, one, data)[1]
        labels[row, : len(found)] = torch.tensor(found)
    return {**made, "labels": labels}


def own_loss(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """transformers' own loss; IDEFICS' always raises, so that it is taken from the logits there."""
    if model.config.model_type != "idefics":
        return model(**batch).loss  # type: ignore[no-any-return]
    logits = model(**{key: value for key, value in batch.items() if key != "labels"}).logits
    labels = batch["labels"][:, 1:]
    return torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), labels, ignore_index=IGNORE)


def own_losses(base: Path, batch: dict[str, Any], trained: Any) -> list[float]:
    """Ten steps of AdamW by hand on transformers' own model and its own loss."""
    import transformers

    model = transformers.AutoModelForImageTextToText.from_pretrained(base, attn_implementation="eager").train()
    model = trained(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3, weight_decay=0)
    losses = []
    for _ in range(10):
        loss = own_loss(model, batch)
        losses.append(loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return losses


def but_tower(model: Any) -> Any:
    """Full training: everything but the vision tower."""
    model.requires_grad_(True)
    for name, parameter in model.named_parameters():
        if "vision_model" in name or "vision_tower" in name:
            parameter.requires_grad = False
    return model


def fully_adapted(model: Any) -> Any:
    """LoRA on every linear layer but the head, drawn from the run's seed; LLaVA's newline is trained beside it."""
    import peft

    names = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in n]
    torch.manual_seed(7)
    model = peft.get_peft_model(
        model, peft.LoraConfig(r=4, lora_alpha=8, target_modules=names, lora_dropout=0.0, task_type="CAUSAL_LM")
    )
    for name, parameter in model.named_parameters():
        if "image_newline" in name:
            parameter.requires_grad = True
    return model


@pytest.mark.parametrize("name", BUILDERS)
def test_ids_and_masks_are_those_of_growing_prefixes(name: str, bases: dict[str, Path], data: Path) -> None:
    family = open_family(str(bases[name]))
    assert family is not None
    encoder, processor = FamilyEncoder(family, data), own_processor(bases[name])
    for one in RECORDS:
        example = encoder.example(one, 0)
        ids, labels = by_growing_prefixes(processor, name, one, data)
        assert example.input_ids.tolist() == ids
        assert example.labels.tolist() == labels
        taught = family.tokenizer.decode([label for label in labels if label != IGNORE])
        assert taught == "".join(text for text, is_taught in by_hand(name, one) if is_taught)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_batch_is_the_processors_own(name: str, bases: dict[str, Path], data: Path) -> None:
    family = open_family(str(bases[name]))
    assert family is not None
    encoder = FamilyEncoder(family, data)
    made = FamilyCollator(family)([encoder.example(one, index) for index, one in enumerate(RECORDS)])
    wanted = own_batch(name, bases[name], data)
    tiles = [sum(len(one.inputs["pixel_values"]) for one in encoder.example(each, 0).seen) for each in RECORDS]
    assert len(set(tiles)) > 2, "records have unlike numbers of tiles"
    for key, value in wanted.items():
        assert made[key].shape == value.shape and bool((made[key] == value).all()), key


@pytest.mark.parametrize("mode", ["", LORA], ids=["full", "LoRA"])
@pytest.mark.parametrize("name", BUILDERS)
def test_ten_steps_have_transformers_own_losses(
    name: str, mode: str, bases: dict[str, Path], data: Path, runs: Any
) -> None:
    losses = [row["loss"] for row in rows_of(runs(name, mode)) if "loss" in row]
    trained = fully_adapted if mode else but_tower
    wanted = own_losses(bases[name], own_batch(name, bases[name], data), trained)
    assert losses == pytest.approx(wanted, rel=1e-4)
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("name", BUILDERS)
def test_lora_trains_saves_evaluates_and_is_the_same_when_merged(
    name: str, bases: dict[str, Path], data: Path, runs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs(name, LORA)
    beside, folded = load(run, merge_adapter=False), load(run)
    questions = questions_from(RECORDS)
    said = [[one["answer"] for one in answer(each, questions, data, max_new_tokens=6)] for each in (beside, folded)]
    assert said[0] == said[1]
    alone = [answer(folded, [one], data, max_new_tokens=6)[0]["answer"] for one in questions]
    assert alone == said[0], "a left-padded batch answers as each question alone"
    loud = [answer(outspoken(each), questions, data, max_new_tokens=6) for each in (beside, folded)]
    assert [one["answer"] for one in loud[0]] == [one["answer"] for one in loud[1]]
    assert all(one["answer"] for one in loud[0])
    assert evaluate([*f"--model {run} --data {data / 'train.json'} --image_folder {data} --max_new_tokens 6".split(),
                     "--losses", "--output", str(tmp_path / "seen")]) == 0  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "seen/predictions-final.jsonl").read_text().splitlines()]
    assert [row["answer"] for row in rows] == said[0]
    for blind in ("blank", "shuffled"):
        assert evaluate([*f"--model {run} --data {data / 'train.json'} --image_folder {data} --blind {blind}".split(),
                         "--max_new_tokens", "6", "--output", str(tmp_path / blind)]) == 0  # fmt: skip


@pytest.mark.parametrize("name", [name for name in BUILDERS if TYPES[name].serves])
def test_the_engine_of_chat_and_serve_answers_as_evaluate_does(name: str, data: Path, runs: Any) -> None:
    from llava_finetune.serve.engine import Engine, Text
    from llava_finetune.serve.prompts import Message
    from llava_finetune.serve.sampling import Sampling

    loaded = outspoken(load(runs(name, LORA)))
    head = loaded.model.get_output_embeddings().weight  # the engine has its own way to choose a token
    head.data[[one for one in loaded.model.generation_config.suppress_tokens if one < len(head)]] = 0
    questions = questions_from(RECORDS[:3])
    wanted = [one["answer"] for one in answer(loaded, questions, data, max_new_tokens=6)]
    engine = Engine(loaded)
    try:
        asked = []
        for one in questions:
            pictures = tuple(Image.open(data / name).convert("RGB") for name in one.images)
            text = one.asked.replace("<image>", "").strip()
            asked.append(engine.prompt([Message("user", text, pictures)]))
        tickets = [engine.submit(prompt, Sampling(temperature=0.0, max_new_tokens=6)) for prompt in asked]
        engine.start()
        said = ["".join(event.text for event in ticket if isinstance(event, Text)).strip() for ticket in tickets]
    finally:
        engine.close()
    assert said == wanted and all(wanted)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_killed_run_goes_on_bit_for_bit(
    name: str, bases: dict[str, Path], data: Path, runs: Any, tmp_path: Path
) -> None:
    mode = LORA if name in ("idefics2", "smolvlm") else ""
    whole = runs(name, mode)
    words = flags(bases[name], data, tmp_path / "run", mode)
    code, text = train(words, tmp_path / "out", wound=at_step(7, die))
    assert code == -9, text
    code, text = train([*words, "--resume", "auto"], tmp_path / "out")
    assert code == 0, text
    assert "checkpoint-5" in text
    assert_same_run(whole, tmp_path / "run")
    assert_same_random_state(whole / "checkpoint-10", tmp_path / "run/checkpoint-10")


def test_a_quantised_run_goes_on_from_its_checkpoint_bit_for_bit(
    bases: dict[str, Path], data: Path, runs: Any, tmp_path: Path
) -> None:
    whole = runs("idefics2", QLORA)
    on = begun(whole, 5, tmp_path / "run")
    code, text = train([*flags(bases["idefics2"], data, on, QLORA), "--resume", "auto"], tmp_path / "out")
    assert code == 0, text
    assert_same_run(whole, on)
    assert_same_random_state(whole / "checkpoint-10", on / "checkpoint-10")


def test_the_tower_is_tuned_and_the_cross_attention_adapted_alone(
    bases: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    more = "--lora_enable True --lora_r 4 --lora_dropout 0 --lora_targets cross --tune_vision_tower True --max_steps 2"
    code, text = train(flags(bases["idefics"], data, tmp_path / "run", more), tmp_path / "out")
    assert code == 0, text
    adapted = load_file(tmp_path / "run/adapter_model.safetensors")
    assert {part for name in adapted for part in re.findall(r"(\w*layers)\.", name)} == {"gated_cross_attn_layers"}
    base, beside = load_file(bases["idefics"] / "model.safetensors"), load_beside(tmp_path / "run")
    tower = [name for name in beside if "vision_model" in name]
    assert tower and all(not torch.equal(beside[name], base[name]) for name in tower if "layers.0" in name)
    questions = questions_from(RECORDS)
    both = [outspoken(load(tmp_path / "run", merge_adapter=merged)) for merged in (False, True)]
    said = [[one["answer"] for one in answer(each, questions, data, max_new_tokens=6)] for each in both]
    assert said[0] == said[1] and all(said[0])


def test_evaluation_while_training_sees_the_same_numbers(bases: dict[str, Path], data: Path, tmp_path: Path) -> None:
    more = f"{LORA} --eval_data_path {data / 'train.json'} --eval_strategy steps --eval_steps 5 --eval_max_new_tokens 6"
    code, text = train(flags(bases["smolvlm"], data, tmp_path / "run", more), tmp_path / "out")
    assert code == 0, text
    rows = rows_of(tmp_path / "run")
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    evaluations = {row["step"]: row for row in rows if "eval_loss" in row}
    assert sorted(evaluations) == [0, 5, 10]
    assert evaluations[0]["eval_loss"] == pytest.approx(losses[1], rel=1e-4), "all records are in every batch"
    assert evaluations[5]["eval_loss"] == pytest.approx(losses[6], rel=1e-4)
    assert (tmp_path / "run/report.html").is_file()


@pytest.mark.parametrize("name", BUILDERS)
def test_a_picture_that_does_not_fit_is_left_out_whole(name: str, bases: dict[str, Path], data: Path) -> None:
    family = open_family(str(bases[name]))
    assert family is not None
    one = record(
        "late", ["small.png", "wide.png"], "<image>\nHow many?", "Two.", "<image>\nAnd what color is this one?", "Red."
    )
    whole = FamilyEncoder(family, data).example(one, 0)
    token = family.tokenizer.convert_tokens_to_ids("<image>")
    places = (whole.input_ids == token).nonzero().flatten().tolist()
    first = whole.seen[0].num_tokens
    assert len(places) == sum(one.num_tokens for one in whole.seen)
    for length in {places[first] + (first > 1), places[-1], places[first]}:
        cut = FamilyEncoder(family, data, max_length=length).example(one, 0)
        left = 1 if family.pictures_stand_alone else 0  # two are seen as wholes, and one alone in views
        assert len(cut.seen) == left and cut.is_cut(length)
        assert int((cut.input_ids == token).sum()) == left * first
        assert (cut.num_taught(length) > 0) == bool(left) and cut.num_taught(length) < whole.num_taught(None)
        assert FamilyCollator(family)([cut])["input_ids"].shape[1] <= length
    short = FamilyEncoder(family, data, max_length=places[0] + (first > 1)).example(one, 0)
    assert not short.seen and token not in short.input_ids
    kept = FamilyEncoder(family, data, max_length=len(whole.input_ids) - 1).example(one, 0)
    assert len(kept.seen) == 2


def test_questions_asked_alone_take_a_row_each(bases: dict[str, Path], data: Path) -> None:
    family = open_family(str(bases["smolvlm"]))
    assert family is not None
    encoder, collator = FamilyEncoder(family, data), FamilyCollator(family)
    made = collator([encoder.example({**RECORDS[0], "independent_turns": True}, 0)])
    asked = ["<image>\nWhat is the color of the shape?", "<image>\nIs there a blue triangle?"]
    said = ["The shape is a red circle.", "No 🙂\n\n  é"]
    pairs = [record("x", ["wide.png"], *pair) for pair in zip(asked, said, strict=True)]
    wanted = collator([encoder.example(one, 0) for one in pairs])
    for key in ("input_ids", "labels", "pixel_values", "attention_mask"):
        assert torch.equal(made[key], wanted[key])


def test_a_later_question_that_loses_its_end_is_counted_as_cut(bases: dict[str, Path], data: Path) -> None:
    family = open_family(str(bases["smolvlm"]))
    assert family is not None
    turns = ("<image>\nred?", "yes", "blue?", "no " * 60)
    one = record("x", ["small.png"], *turns, independent_turns=True)
    rows = FamilyEncoder(family, data).example(one, 0).rows
    length = len(rows[0].input_ids) + 20
    assert length < len(rows[1].input_ids)
    cut = FamilyEncoder(family, data, max_length=length).example(one, 0)
    assert cut.is_cut(length) and not cut.rows[0].is_cut(length)


def test_a_batch_of_text_alone_reaches_the_connector(bases: dict[str, Path], data: Path, tmp_path: Path) -> None:
    (tmp_path / "text.json").write_text(json.dumps([RECORDS[2]] * 4))
    words = flags(bases["smolvlm"], data, tmp_path / "run", "")
    words[words.index("--data_path") + 1] = str(tmp_path / "text.json")
    code, text = train(words, tmp_path / "out")
    assert code == 0, text
    assert "not moved: projector; no record that was trained on has a picture" in text


def test_pictures_are_left_whole_where_the_run_says_so(bases: dict[str, Path], data: Path, runs: Any) -> None:
    run = runs("smolvlm", f"{LORA} --image_aspect_ratio pad")
    family = open_family(str(run))
    assert family is not None
    seen = family.see([Image.open(data / "long.png").convert("RGB")])
    assert len(seen[0].inputs["pixel_values"]) == 1 and seen[0].num_tokens == 4


def test_a_tokenizer_that_would_split_a_mark_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(bases["smolvlm"], folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text().replace("<row_3_col_2>", "<other>")
        (folder / name).write_text(text)
    with pytest.raises(UserError, match="no token <row_3_col_2>"):
        open_family(str(folder))


def test_an_idefics_that_never_learned_turns_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    """idefics-9b and idefics-80b themselves, which the published notebooks tune."""
    base = _without_weights(bases["idefics"], tmp_path / "base")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (base / file).write_text((base / file).read_text().replace("<end_of_utterance>", "<other>"))
    with pytest.raises(UserError, match=r"no <end_of_utterance>, .*: a base model, .*such as .*/idefics-9b-instruct"):
        open_family(str(base))


@pytest.mark.parametrize("name", BUILDERS)
def test_marks_that_the_tokenizer_or_the_embedding_has_not_are_refused(
    name: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    """transformers#30464: <image> is not in the tokenizer, or beyond the rows that the model embeds."""
    family = open_family(str(bases[name]))
    assert family is not None
    without = _without_weights(bases[name], tmp_path / "without")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (without / file).write_text((without / file).read_text().replace('"<image>"', '"<other>"'))
    with pytest.raises(UserError, match=f"{without}: the tokenizer has no token <image>.*copy tokenizer.json"):
        open_family(str(without))
    beyond = _without_weights(bases[name], tmp_path / "beyond")
    config = json.loads((beyond / "config.json").read_text())
    rows = family.tokenizer.convert_tokens_to_ids("<image>")
    config.get("text_config", config)["vocab_size"] = rows - config.get("additional_vocab_size", 0)
    (beyond / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"{beyond}: token <.* is [0-9]+, and the model embeds {rows} tokens"):
        open_family(str(beyond))


@pytest.mark.parametrize(
    ("name", "file", "values", "said"),
    [
        ("smolvlm", "chat_template.json", {"chat_template": ""}, "no chat template, which says how smolvlm is asked"),
        ("llava_onevision", "chat_template.json", {"chat_template": None}, "no chat template, which says how llava_o"),
        ("idefics2", "chat_template.json", {"chat_template": 5}, "chat_template: expected text, found 5; copy"),
        ("idefics3", "processor_config.json", {"image_seq_len": 7}, "image_seq_len: 7, and the model makes 4 of a"),
        ("llava_onevision", "processor_config.json", {"num_image_tokens": 9}, "num_image_tokens: 9, and the model ma"),
    ],
)
def test_processor_files_that_are_not_the_models_are_refused_before_it_is_loaded(
    name: str, file: str, values: dict[str, Any], said: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    folder = _without_weights(bases[name], tmp_path / "base")
    (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **values}))
    with pytest.raises(UserError, match=said):
        open_family(str(folder))


def test_a_template_among_others_with_names_is_taken_and_idefics_have_their_own(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    folder = _without_weights(bases["smolvlm"], tmp_path / "base")
    own = json.loads((folder / "chat_template.json").read_text())["chat_template"]
    named = [{"name": "default", "template": own}, {"name": "tool_use", "template": "x"}]
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": named}))
    found = open_family(str(folder))
    assert found is not None and found.chat_template == own
    other = _without_weights(bases["idefics2"], tmp_path / "other")
    (other / "chat_template.json").unlink()
    found = open_family(str(other))
    assert found is not None and found.chat_template == TEMPLATE


def _without_weights(base: Path, folder: Path) -> Path:
    return Path(shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors")))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--tune_mm_mlp_adapter True", "stage 1 makes a projector .* train that alone with --freeze_backbone True"),
        ("--version v1", "--version v1: a LLaVA is put together by it"),
        ("--cache_features x", "features are kept for upstream's towers alone"),
        (
            "--lora_enable True --lora_targets language --dpo True --freeze_mm_mlp_adapter True",
            "pairs of answers are learned by LLaVA's layouts alone",
        ),
        ("--augment flip", "only LLaVA's pictures are varied"),
        ("--deepspeed deepspeed_configs/zero3.json", "ZeRO-3.* use deepspeed_configs/zero2.json"),
    ],
)
def test_what_a_family_cannot_do_is_refused_with_what_it_can(
    more: str, said: str, bases: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    code, text = train(flags(bases["smolvlm"], data, tmp_path / "run", more), tmp_path / "out")
    assert code == 1
    assert re.search(said, text)
    assert "smolvlm can be trained by: full, frozen language model (--freeze_backbone True), LoRA" in text
    assert "Loading weights" not in text and "trainable" not in text


def test_nothing_of_a_family_is_converted(bases: dict[str, Path], tmp_path: Path) -> None:
    for convert in (export, import_model):
        with pytest.raises(UserError, match=r'"smolvlm": it is in transformers. own layout, .* nothing is to convert'):
            convert(str(bases["smolvlm"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_family_is_told_which_there_are_and_how_to_add_one(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "paligemma", "text_config": {}, "vision_config": {}}))
    code, text = train(flags(folder, data, tmp_path / "run", ""), tmp_path / "out")
    assert code == 1
    assert all(name in text for name in TYPES) and "docs/architecture.md" in text


@pytest.mark.parametrize("name", BUILDERS)
def test_a_merged_adapter_answers_as_the_adapter_in_transformers_own_layout(
    name: str, bases: dict[str, Path], data: Path, runs: Any, tmp_path: Path
) -> None:
    import transformers

    run = runs(name, LORA)
    wanted = HeldOut(data / "train.json", data, num_records=4, num_answers=4)
    result = merge(str(run), tmp_path / "merged", held_out=wanted)
    assert (result.answers, result.same_beside, result.layout) == (4, 4, "transformers")
    assert result.largest_difference < 1e-4
    if name == "smolvlm":
        assert merge(str(run), tmp_path / "other").largest_difference < 1e-4, "on made-up conversations"
    own = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "merged").eval()
    batch = own_batch(name, bases[name], data)
    with torch.no_grad():
        mine, adapter = (load(folder).model(**batch)["loss"].item() for folder in (tmp_path / "merged", run))
        assert own_loss(own, batch).item() == pytest.approx(mine, rel=1e-5)
        assert adapter == pytest.approx(mine, rel=1e-5)


@pytest.mark.parametrize("name", BUILDERS)
def test_show_and_check_count_the_tokens_of_training(
    name: str, bases: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    family, view = open_family(str(bases[name])), open_model(str(bases[name]))
    assert family is not None
    for one in (RECORDS[0], RECORDS[2], RECORDS[3]):
        encoded, example = view.encode(one), FamilyEncoder(family, data).example(one, 0)
        counts = [view.image_tokens(picture.size) for picture in example.pictures]
        shown = sum(token == IMAGE_TOKEN_INDEX for token in encoded.input_ids)
        marks = len(encoded.input_ids) - shown + sum(one.num_tokens for one in example.seen)
        assert shown == len(counts) and abs(marks - len(example.input_ids)) <= sum(counts)
        taught = [label for label in encoded.labels if label != IGNORE]
        assert taught == [label for label in example.labels.tolist() if label != IGNORE]
    words = ["--images", str(data), "--model", str(bases[name]), "--html", str(tmp_path / "shown.html")]
    assert show([str(data / "train.json"), *words]) == 0
    assert "red circle" in re.sub(r"<[^>]+>", "", (tmp_path / "shown.html").read_text()).replace("·", " ")


def test_idefics_is_not_served(bases: dict[str, Path]) -> None:
    from llava_finetune.serve.engine import Engine

    with pytest.raises(UserError, match="ask it with llava-finetune evaluate"):
        Engine(load(bases["idefics"]))


MODES = {"full": "", "frozen language model": "--freeze_backbone True", "LoRA": LORA, "QLoRA": QLORA}
"""The modes of docs/families.md, by their flags."""


@pytest.mark.parametrize("mode", ["frozen language model", "QLoRA"])
@pytest.mark.parametrize("name", BUILDERS)
def test_a_frozen_language_model_and_a_quantised_one_train(
    name: str, mode: str, bases: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    code, text = train(flags(bases[name], data, run, f"{MODES[mode]} --max_steps 2"), tmp_path / "out")
    assert code == 0, text
    losses = [row["loss"] for row in rows_of(run) if "loss" in row]
    assert len(losses) == 2 and 0 < losses[1] < losses[0]
    if mode == "QLoRA":
        answers = answer(outspoken(load(run, bits=4)), questions_from(RECORDS), data, max_new_tokens=3)
        assert len(answers) == 5 and all(one["answer"] for one in answers)


def parameters(test: Any, name: str) -> list[str]:
    """What a test is run with: the ids of a parameter, or its values."""
    mark = next(one for one in test.pytestmark if one.name == "parametrize" and one.args[0] == name)
    return list(mark.kwargs.get("ids") or mark.args[1])


def test_the_table_of_the_page_is_what_runs_here() -> None:
    page = (ROOT / "docs/families.md").read_text()
    heads = ["family", *MODES, "chat, serve", "ZeRO-3"]
    lines = page.partition(f"| {' | '.join(heads)} |\n")[2].splitlines()[1:]
    table = [line.strip("| ").split(" | ") for line in itertools.takewhile(lambda line: line.startswith("| "), lines)]
    assert [row[0].strip("`") for row in table] == list(BUILDERS)
    trained = (test_ten_steps_have_transformers_own_losses, test_a_frozen_language_model_and_a_quantised_one_train)
    ran = {(name, mode) for test in trained for name in parameters(test, "name") for mode in parameters(test, "mode")}
    served = parameters(test_the_engine_of_chat_and_serve_answers_as_evaluate_does, "name")
    for family, *cells in table:
        name = family.strip("`")
        modes = ["yes" if (name, mode) in ran else "" for mode in MODES]
        assert cells == [*modes, "yes" if name in served else "refused", "refused"], family


def test_the_tests_that_the_page_names_are_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/families.md").read_text()))
    files = [*(ROOT / "tests/families").glob("test_*.py"), *(ROOT / "tests/planning").glob("test_*.py")]
    there = set(re.findall(r"^def (test_\w+)", "\n".join(file.read_text() for file in files), re.MULTILINE))
    assert len(named) >= 7 and named <= there, named - there


def test_every_known_family_is_built_here() -> None:
    assert set(BUILDERS) == set(TYPES) == set(FAMILIES)
