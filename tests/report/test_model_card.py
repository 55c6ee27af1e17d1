"""The model card: hub format, scores with intervals, what the model was made from; a card of somebody else is kept."""

from __future__ import annotations

import json

import pytest
import yaml

from llava_finetune.report.model_card import MARK, write_model_card

SAVED = {
    "kind": "adapter", "base": "lmsys/vicuna-7b-v1.5", "base_sha256": "cd" * 32, "conversation": "v1",
    "dtype": "bfloat16", "upstream_commit": "24fa1d06", "series": "ee" * 32,
}  # fmt: skip


def front_matter(text):
    return yaml.safe_load(text.split("---\n")[1])


@pytest.fixture
def model(make_run):
    folder = make_run(num_images=10)
    (folder / "llava_finetune.json").write_text(json.dumps(SAVED))
    return folder


def test_the_card_has_the_hubs_front_matter(model):
    data = front_matter(write_model_card(model).read_text("utf-8"))
    assert data["base_model"] == "lmsys/vicuna-7b-v1.5" and data["library_name"] == "peft"
    assert data["pipeline_tag"] == "image-text-to-text" and {"llava", "lora"} <= set(data["tags"])
    result = data["model-index"][0]["results"][0]
    scores = json.loads((model / "scores-final.json").read_text())
    assert result["metrics"][0] == {
        "type": "exact_match", "name": "Exact match", "value": round(100 * scores["exact_match"], 2),
    }  # fmt: skip


def test_the_card_says_scores_with_intervals_data_and_how_to_load(model):
    text = write_model_card(model).read_text("utf-8")
    scores = json.loads((model / "scores-final.json").read_text())
    low, high = (100 * bound for bound in scores["interval"])
    assert f"| After training | {100 * scores['exact_match']:.1f} ({low:.1f}\u2013{high:.1f}) |" in text
    assert "| Text-only prior |" in text and "| Blind |" in text
    assert f"SHA-256 of the records file: `{'ab12' * 16}`" in text
    assert "llava-finetune chat --model made" in text and "llava-finetune merge" in text
    assert "- LoRA rank: 128" in text and "24fa1d06" in text
    assert "Look up the licence of the base model." in text


def test_a_local_base_is_named_but_not_as_a_hub_id_and_its_licence_is_read(model, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (model / "llava_finetune.json").write_text(json.dumps({**SAVED, "base": str(base)}))
    text = write_model_card(model).read_text("utf-8")
    assert "base_model" not in front_matter(text) and front_matter(text)["license"] == "apache-2.0"
    assert "The base model says `apache-2.0`." in text


def test_a_merged_model_takes_the_scores_of_its_run(model, tmp_path):
    merged = tmp_path / "merged"
    merged.mkdir()
    (merged / "llava_finetune.json").write_text(json.dumps({**SAVED, "kind": "model"}))
    text = write_model_card(merged, model).read_text("utf-8")
    assert "# merged" in text and "| After training |" in text
    assert front_matter(text)["library_name"] == "transformers" and "llava-finetune merge" not in text


def test_a_model_without_scores_says_so(tmp_path):
    text = write_model_card(tmp_path).read_text("utf-8")
    assert "This model has not been evaluated" in text and "model-index" not in front_matter(text)


@pytest.mark.parametrize("old", [MARK + "\nold", "# Model Card\n[More Information Needed]", "\n"])
def test_our_own_and_template_cards_are_replaced(model, old):
    (model / "README.md").write_text(old)
    assert write_model_card(model) == model / "README.md"
    card = (model / "README.md").read_text("utf-8")
    assert card.count(MARK) == 1 and "## Scores" in card and "[More Information Needed]" not in card


def test_a_card_that_somebody_wrote_is_kept(model):
    (model / "README.md").write_text("# My model\nwritten with care")
    assert write_model_card(model) is None
    assert (model / "README.md").read_text() == "# My model\nwritten with care"
