"""Our one masker against upstream's five: the same prompt for every template, the same labels wherever upstream's are
right, and a generated table of where they are not (docs/oracle.md).
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.records.marks import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava_finetune.data.masking import encode, prompt_ids
from llava_finetune.data.rendering import segments
from llava_finetune.data.templates import conversation, end_text, template_names
from llava_finetune.errors import UserError
from llava_finetune.model.building import load_tokenizer

IMAGE = "<image>"


def talk(*values: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[index % 2], "value": value} for index, value in enumerate(values)]


#: Conversations that upstream masks rightly in its own templates.
ORDINARY = {
    "one picture": talk(f"{IMAGE}\nWhat is this?", "a red circle"),
    "a digit": talk(f"{IMAGE}\nHow many?", "3"),
    "several rounds": talk(f"{IMAGE}\nWhat is this?", "a 1", "Is it red?", "no", "And now?", "It is 2 o'clock."),
    "picture at the end": talk(f"What is this?\n{IMAGE}", "a dog"),
    "picture within": talk(f"See {IMAGE} there?", "yes"),
    "text only": talk("Two and two?", "four"),
    "text only, rounds": talk("Two and two?", "four", "and three?", "seven"),
    "other scripts": talk(f"{IMAGE}\nWas ist das für ein Käse? 这是什么?", "奶酪 🧀, très bon"),
    "several lines": talk(f"{IMAGE}\nList them.", "1. one\n2. two\n\n- three"),
    "long": talk(f"{IMAGE}\nDescribe it.", "A red circle and a blue triangle. " * 20),
    "gpt speaks first": [{"from": "gpt", "value": "hello"}, *talk(f"{IMAGE}\nWhat?", "a cat")],
}
CAPTIONS = {name: ORDINARY[name] for name in ("one picture", "a digit", "other scripts", "several lines", "long")}
ONE_ROUND = {name: turns for name, turns in ORDINARY.items() if len(turns) < 4}
RIGHT = {
    "mistral_instruct": ONE_ROUND,
    "v1": ORDINARY,
    "vicuna_v1": ORDINARY,
    "llava_v1": ORDINARY,
    "v1_mmtag": ORDINARY,
    "llava_llama_2": ORDINARY,
    "llama_2": ORDINARY,
    "plain": CAPTIONS,
    "v0_plain": CAPTIONS,
}


def upstream_masks(cases: list[dict[str, Any]], tree: Path, work: Path) -> list[dict[str, Any]]:
    """What upstream makes of cases (template, tokenizer, conversations), from its own process."""
    work.mkdir(exist_ok=True)
    (work / "cases.json").write_text(json.dumps(cases))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "upstream_masks.py"), str(work / "cases.json"), str(work / "out")],
        env={**os.environ, "PYTHONPATH": f"{tree}{os.pathsep}{Path(__file__).parents[2]}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return list(json.loads((work / "out").read_text()))


@pytest.fixture(scope="module")
def theirs(
    upstream_tree: Path, tokenizers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Upstream's result by (template, tokenizer, case), for all cases of this file at once."""
    cases, names = [], []
    for template in template_names():
        if template == "llama_3":
            continue
        for kind, folder in tokenizers.items():
            for name, turns in (ORDINARY | ODD).items():
                names.append((template, kind, name))
                cases.append({"template": template, "tokenizer": str(folder), "conversations": turns})
    return dict(zip(names, upstream_masks(cases, upstream_tree, tmp_path_factory.mktemp("masks")), strict=True))


@pytest.fixture(scope="module")
def loaded(tokenizers: dict[str, Path]) -> dict[str, Any]:
    return {kind: load_tokenizer(str(folder), None, 2048) for kind, folder in tokenizers.items()}


@pytest.mark.parametrize("template", template_names())
def test_joined_segments_are_upstreams_prompt(template: str, theirs: dict[tuple[str, str, str], Any]) -> None:
    if template == "llama_3":
        text = "".join(piece.text for piece in segments(talk("hi", "ho"), template))
        conv = conversation(template)
        conv.messages = [[conv.roles[0], "hi"], [conv.roles[1], "ho"]]
        assert text == conv.get_prompt()
        return
    for name, turns in (CAPTIONS if "plain" in template else ORDINARY).items():
        if name == "gpt speaks first":
            continue  # get_prompt knows no such turn; the labels test holds it
        prompt = theirs[template, "llama", name].get("prompt")
        if "plain" in template:  # upstream's preprocess_plain joins the two itself, without the human's words
            prompt = IMAGE + turns[1]["value"] + "\n"
        assert "".join(piece.text for piece in segments(turns, template)) == prompt, name


@pytest.mark.parametrize("kind", ["llama", "legacy"])
@pytest.mark.parametrize("template", sorted(RIGHT))
def test_labels_equal_upstreams_token_for_token(
    template: str, kind: str, theirs: dict[tuple[str, str, str], Any], loaded: dict[str, Any]
) -> None:
    for name, turns in RIGHT[template].items():
        expected = theirs[template, kind, name]
        encoded = encode(turns, template, loaded[kind])
        assert encoded.input_ids == expected["input_ids"], name
        assert encoded.labels == expected["labels"], (name, shown(expected, loaded[kind]))


@pytest.mark.parametrize("kind", ["llama", "legacy", "chatml", "smol"])
def test_a_picture_never_stands_first(kind: str, loaded: dict[str, Any]) -> None:
    """Stage 1 begins with a BOS whichever tokenizer; as upstream's with Llama's, which adds one to every text."""
    tokenizer = loaded[kind]
    for turns in CAPTIONS.values():
        encoded = encode(turns, "plain", tokenizer)
        assert encoded.input_ids[:2] == [tokenizer.bos_token_id, -200]
        assert encoded.input_ids[2:].count(tokenizer.bos_token_id) == 0
        assert encoded.labels[:2] == [IGNORE_INDEX, IGNORE_INDEX]


def taught_texts(labels: list[int], tokenizer: Any) -> list[str]:
    """The taught stretches as text, each without the space that a word's first token may hold."""
    stretches = [list(run) for taught, run in itertools.groupby(labels, lambda label: label != IGNORE_INDEX) if taught]
    return [tokenizer.decode(run, clean_up_tokenization_spaces=False).removeprefix(" ") for run in stretches]


def answers_and_ends(turns: list[dict[str, str]], template: str) -> list[str]:
    """What a right mask teaches; a first turn of gpt's has no question and is not taught."""
    end = (" " if conversation(template).sep_style.name == "LLAMA_2" else "") + end_text(template)
    first = turns[0]["from"] == "gpt"
    return [turn["value"] + end for turn in turns[first:] if turn["from"] == "gpt"]


def test_wherever_upstream_teaches_answers_and_ends_alone_the_labels_are_the_same(
    theirs: dict[tuple[str, str, str], Any],
    loaded: dict[str, Any],
    note: Callable[[str], None],
) -> None:
    """Every template, tokenizer and conversation of this file; what is right is judged by the text that is taught."""
    right, lost = [], set()
    for (template, kind, name), result in theirs.items():
        turns = (ORDINARY | ODD)[name]
        if "error" in result or taught_texts(result["labels"], loaded[kind]) != answers_and_ends(turns, template):
            continue
        encoded = encode(turns, template, loaded[kind])
        if encoded.input_ids[:2] == [loaded[kind].bos_token_id, -200] and result["input_ids"][0] == -200:
            assert encoded.labels[1:] == result["labels"]  # ours begins with a BOS, theirs with the picture
            continue
        if len(result["input_ids"]) < len(encoded.input_ids):
            lost.add(kind)  # the mask is right, the prompt is not: a token of every chunk is dropped for a BOS
            continue
        right.append((template, kind, name))
        assert encoded.labels == result["labels"], right[-1]
    note(f"masks: upstream's are right in {len(right)} of {len(theirs)} cases, ours equal there")
    assert lost <= {"smol"}
    assert {template for template, _, _ in right} >= set(RIGHT)
    assert len(right) > 150


@pytest.mark.parametrize("kind", ["llama", "legacy", "chatml", "smol"])
@pytest.mark.parametrize("template", template_names())
def test_supervised_tokens_are_the_answers_and_their_ends(template: str, kind: str, loaded: dict[str, Any]) -> None:
    tokenizer = loaded[kind]
    for name, turns in (CAPTIONS if "plain" in template else ORDINARY).items():
        encoded = encode(turns, template, tokenizer)
        answers = [turn["value"] for turn in turns if turn["from"] == "gpt" and turn["value"] != "hello"]
        end = end_text(template)
        space = " " if conversation(template).sep_style.name == "LLAMA_2" else ""
        taught = [
            tokenizer.decode(encoded.input_ids[start:stop], clean_up_tokenization_spaces=False).removeprefix(" ")
            for start, stop in encoded.spans
        ]
        assert taught == [answer + space + end for answer in answers], name
        for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
            assert label in (IGNORE_INDEX, token)


@pytest.mark.parametrize("kind", ["llama", "legacy", "chatml", "smol"])
@pytest.mark.parametrize("template", [name for name in template_names() if "plain" not in name])
def test_what_is_taught_follows_the_prompt_of_generation(template: str, kind: str, loaded: dict[str, Any]) -> None:
    """The prompt that generation starts from is the training sequence up to the first taught token."""
    tokenizer = loaded[kind]
    for answer in ("yes", "3", "\n1. one"):
        turns = talk(f"{IMAGE}\nHow many?", answer)
        encoded = encode(turns, template, tokenizer)
        assert prompt_ids(turns[:1], template, tokenizer) == encoded.input_ids[: encoded.spans[0][0]], answer


def test_a_bos_that_opens_every_turn_is_not_dropped(loaded: dict[str, Any], theirs: dict[Any, Any]) -> None:
    """SmolLM2's bos_token is <|im_start|>: upstream takes the first one for a BOS and drops a token of every chunk."""
    turns = ORDINARY["one picture"]
    encoded = encode(turns, "chatml_direct", loaded["smol"])
    chunks = "".join(
        loaded["smol"].decode(part, clean_up_tokenization_spaces=False) for part in split(encoded.input_ids)
    )
    text = "".join(piece.text for piece in segments(turns, "chatml_direct")).replace(IMAGE, "")
    assert chunks.replace(" ", "") == text.replace(" ", "")
    theirs_one = theirs["chatml_direct", "smol", "one picture"]["input_ids"]
    assert len(theirs_one) < len(encoded.input_ids)


def split(ids: list[int]) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for token in ids:
        if token == IMAGE_TOKEN_INDEX:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


WORDS = st.text(st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="<>|▁"), min_size=1, max_size=24)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3), st.sampled_from(["llama", "chatml"]))
def test_any_text_is_taught_exactly_once(rounds: list[tuple[str, str]], kind: str) -> None:
    tokenizer = _cached(kind)
    template = {"llama": "v1", "chatml": "chatml_direct"}[kind]
    turns = talk(*[text for pair in rounds for text in pair])
    encoded = encode(turns, template, tokenizer)
    pieces = [piece.text for piece in segments(turns, template) if piece.supervised]
    taught = [tokenizer.decode(encoded.input_ids[slice(*span)]) for span in encoded.spans]
    assert len(taught) == len(pieces)
    for text, piece in zip(taught, pieces, strict=True):
        # A tokenizer may hold the first space of a piece in the token before it, and normalises nothing else.
        assert text.strip(" ") == piece.strip(" ")


_TOKENIZERS: dict[str, Any] = {}


@pytest.fixture(scope="module", autouse=True)
def _remember(loaded: dict[str, Any]) -> None:
    _TOKENIZERS.update(loaded)


def _cached(kind: str) -> Any:
    return _TOKENIZERS[kind]


#: Conversations and tokenizers on which upstream's labels are wrong, for the table of docs/oracle.md.
ODD = {
    "an empty answer": talk(f"{IMAGE}\nWhat?", "", "And now?", "a cat"),
    "an answer holds the end token": talk(f"{IMAGE}\nWhat?", "type </s> to stop"),
    "an answer holds the role's name": talk(f"{IMAGE}\nWhat?", "he said ASSISTANT: no"),
    "an answer holds [/INST]": talk(f"{IMAGE}\nWhat?", "write [/INST] here"),
}
TABLE = (
    ("v0", "llama", "one picture"),
    ("llava_v0", "llama", "several rounds"),
    ("v0_mmtag", "llama", "text only"),
    ("mpt", "llama", "one picture"),
    ("mpt", "chatml", "one picture"),
    ("chatml_direct", "chatml", "several rounds"),
    ("chatml_direct", "smol", "one picture"),
    ("v1", "chatml", "several rounds"),
    ("v1", "llama", "an empty answer"),
    ("v1", "llama", "an answer holds the end token"),
    ("v1", "llama", "an answer holds the role's name"),
    ("mistral_instruct", "llama", "several rounds"),
    ("llava_llama_2", "llama", "an empty answer"),
    ("llava_llama_2", "llama", "an answer holds [/INST]"),
)


def shown(result: dict[str, Any], tokenizer: Any) -> str:
    """The taught stretches of a result as one line of text, or what upstream said instead."""
    if "error" in result:
        return f"`{result['error'].splitlines()[0][:60]}`"
    parts: list[list[int]] = [[]]
    for label in result["labels"]:
        if label == IGNORE_INDEX:
            parts.append([])
        else:
            parts[-1].append(max(label, 0))
    texts = [tokenizer.decode(part, clean_up_tokenization_spaces=False).strip(" ") for part in parts if part]
    if not texts:
        return "nothing: every label is -100"
    return " · ".join(f"`{text}`" for text in texts).replace("\n", "⏎").replace("|", "\\|")


def ours(turns: list[dict[str, str]], template: str, tokenizer: Any) -> str:
    try:
        encoded = encode(turns, template, tokenizer)
    except UserError as error:
        return f"refused: {error}"
    return shown({"labels": encoded.labels}, tokenizer)


def test_the_table_of_upstreams_wrong_masks_is_current(
    theirs: dict[tuple[str, str, str], Any],
    loaded: dict[str, Any],
    golden: Callable[[Path, str], None],
    root: Path,
    request: pytest.FixtureRequest,
) -> None:
    rows = ["| Template | Tokenizer | Case | Upstream teaches | Here |", "|---|---|---|---|---|"]
    for template, kind, case in TABLE:
        turns = (ORDINARY | ODD)[case]
        upstream, here = shown(theirs[template, kind, case], loaded[kind]), ours(turns, template, loaded[kind])
        assert upstream != here, f"{template}, {kind}, {case}: no difference to show"
        rows.append(f"| {template} | {kind} | {case} | {upstream} | {here} |")
    path = root / "docs" / "oracle.md"
    before, _, rest = path.read_text(encoding="utf-8").partition("<!-- masks -->\n")
    _, _, after = rest.partition("<!-- end of masks -->")
    golden(path, f"{before}<!-- masks -->\n" + "\n".join(rows) + f"\n<!-- end of masks -->{after}")
