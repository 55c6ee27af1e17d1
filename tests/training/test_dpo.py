"""DPO: the loss is the formula's, both answers see one prompt, a resumed run is the same to the bit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from llava_finetune.data.masking import encode
from llava_finetune.data.pairs import PairEncoder
from llava_finetune.errors import UsageError, UserError
from llava_finetune.model.building import load_tokenizer
from llava_finetune.report.run_folder import read_run
from llava_finetune.training.pair_loss import PairSettings, mean_kl, pair_loss, path_sums
from tests.training.conftest import COLOURS, Flags, assert_same_run, record, rows_of, tensors
from tests.training.forked import train

MORE = "--dpo True --dpo_beta 0.5 --freeze_mm_mlp_adapter True --lora_dropout 0"


def pair(name: str, question: str, chosen: str, rejected: str, **more: Any) -> dict[str, Any]:
    return {**record(name, question, chosen, **more), "rejected": rejected}


@pytest.fixture(scope="module")
def pairs(data: Path) -> Path:
    """Eight pairs on the other tests' pictures, one without a picture, one of two turns; answers of any length."""
    names = list(COLOURS)
    made = [
        pair(f"p-{n}", "<image>\nwhat colour?", names[n % 4], f"{names[(n + 1) % 4]} {'and more ' * (n % 3)}".strip(),
             image=f"{n}.png")
        for n in range(6)
    ]  # fmt: skip
    made.append(pair("text", "two and two?", "four", "twenty two"))
    two = pair("two", "<image>\nwhat colour?", "red", "dark blue", image="0.png")
    two["conversations"][1:1] = [{"from": "gpt", "value": "it is"}, {"from": "human", "value": "say it"}]
    made.append(two)
    path = data / "pairs.json"
    path.write_text(json.dumps(made))
    return path


def command(flags: Flags, output: Path, pairs: Path, more: str = "") -> list[str]:
    return flags("lora", output, f"--data_path {pairs} {MORE} {more}")


# ---- the loss against a reading of the formula that shares nothing with it ----


def by_hand(policy: list[float], reference: list[float], counts: list[int], settings: PairSettings) -> float:
    losses, chosen = [], 0.0
    for place in range(0, len(policy), 2):
        ratio = [policy[i] - reference[i] for i in (place, place + 1)]
        if settings.length_normalised:
            ratio = [value / counts[i] for value, i in zip(ratio, (place, place + 1), strict=True)]
        logit = settings.beta * (ratio[0] - ratio[1])
        right, wrong = (math.log1p(math.exp(-sign * logit)) for sign in (1, -1))
        losses.append((1 - settings.label_smoothing) * right + settings.label_smoothing * wrong)
        chosen -= policy[place]
    return sum(losses) / len(losses) + settings.sft_weight * chosen / sum(counts[::2])


@pytest.mark.parametrize(
    "settings",
    [
        PairSettings(0.1), PairSettings(0.3, label_smoothing=0.2), PairSettings(5.0, length_normalised=True),
        PairSettings(0.1, 0.1, True, 0.7),
    ],
)  # fmt: skip
def test_the_loss_is_the_formulas(settings: PairSettings) -> None:
    torch.manual_seed(0)
    counts = [3, 5, 1, 9, 4, 4]
    policy, reference = (-torch.rand(6, dtype=torch.float64) * 20 for _ in range(2))
    loss, shown = pair_loss(policy, reference, torch.tensor(counts), settings)
    assert float(loss) == pytest.approx(by_hand(policy.tolist(), reference.tolist(), counts, settings), rel=1e-12)
    assert float(shown["margin"]) == pytest.approx(float(shown["chosen_reward"] - shown["rejected_reward"]))
    assert 0 <= float(shown["margin_accuracy"]) <= 1


def test_sums_go_by_path_and_the_kl_is_exact() -> None:
    assert path_sums(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2, 1])).tolist() == [-3.0, -4.0]
    torch.manual_seed(1)
    head, one, two = torch.nn.Linear(4, 7), torch.randn(300, 4), torch.randn(300, 4)
    p, q = (torch.distributions.Categorical(logits=head(part)) for part in (one, two))
    expected = torch.distributions.kl_divergence(p, q).mean()
    assert float(mean_kl(one, two, head)) == pytest.approx(float(expected), rel=1e-5)
    assert float(mean_kl(one, one, head)) == pytest.approx(0.0, abs=1e-6)


# ---- the run ----


def test_a_run_learns_its_pairs_and_tells_of_them(flags: Flags, pairs: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    code, text = train(command(flags, output, pairs, "--max_steps 4 --sft_weight 0.3 --save_steps 2"), tmp_path / "out")
    assert code == 0, text
    rows = [row for row in rows_of(output) if "loss" in row]
    assert rows[0]["dpo_loss"] == pytest.approx(math.log(2), abs=1e-6), "nothing differs from the reference yet"
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6) and rows[0]["margin"] == 0
    assert rows[-1]["kl"] > 0 and rows[-1]["margin"] > 0 and rows[-1]["margin_accuracy"] > 0.5
    for row in rows:
        assert row["loss"] == pytest.approx(row["dpo_loss"] + 0.3 * row["sft_loss"], rel=1e-5)
    page = (output / "report.html").read_text()
    assert "Pairs: chosen before rejected" in page and "Of the pairs of answers it set" in page
    assert read_run(output).points("margin_accuracy")
    assert not any("mm_projector" in name for name in tensors(output)), "what the reference needs stays as it is"


def test_branches_behind_one_prompt_give_the_numbers_of_whole_conversations(
    flags: Flags, pairs: Path, tmp_path: Path
) -> None:
    """Padded, each answer is a row of its own, its prompt and picture laid out by upstream's function."""
    found = []
    for unpadded in (True, False):
        output = tmp_path / str(unpadded)
        more = f"--max_steps 3 --unpadded {unpadded} --sft_weight 0.2 --save_steps 9"
        code, text = train(command(flags, output, pairs, more), tmp_path / "out")
        assert code == 0, text
        found.append([row for row in rows_of(output) if "loss" in row])
    for one, other in zip(*found, strict=True):
        for name in ("loss", "dpo_loss", "sft_loss", "margin", "kl", "grad_norm"):
            assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-6), name


def test_a_resumed_run_is_the_same_to_the_bit(flags: Flags, pairs: Path, tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    keep = "--save_total_limit 9"
    assert train(command(flags, whole, pairs, keep), tmp_path / "out")[0] == 0
    assert train(command(flags, halves, pairs, keep), tmp_path / "out")[0] == 0
    for name in ("result.json", "adapter_model.safetensors", "checkpoint-6", "checkpoint-4"):
        path = halves / name
        if path.is_dir():
            import shutil

            shutil.rmtree(path)
        else:
            path.unlink()
    code, text = train(command(flags, halves, pairs, f"{keep} --resume auto"), tmp_path / "out")
    assert code == 0 and "going on from" in text, text
    assert_same_run(whole, halves)
    names = ("dpo_loss", "margin", "kl")
    kept = [[[row[name] for name in names] for row in rows_of(path) if "loss" in row] for path in (whole, halves)]
    assert kept[0] == kept[1]
    code, text = train(command(flags, halves, pairs, f"{keep} --resume auto --dpo_beta 0.4"), tmp_path / "out")
    assert code == 1 and "dpo_beta: 0.5 then, 0.4 now" in text


def test_a_run_in_bf16_measures_its_kl_as_its_loss(flags: Flags, pairs: Path, tmp_path: Path) -> None:
    """Without DeepSpeed the passes run under autocast, what they return is fp32, and the head is bf16."""
    output = tmp_path / "run"
    code, text = train(command(flags, output, pairs, "--max_steps 2 --precision bf16 --save_steps 9"), tmp_path / "out")
    assert code == 0, text
    rows = [row for row in rows_of(output) if "loss" in row]
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6) and rows[-1]["kl"] > 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--freeze_mm_mlp_adapter False", "would move the reference too"),
        ("--lora_enable False", "its reference is the model with the adapter off"),
        ("--init_lora runs/mine", "merge it first"),
        ("--dpo False --sft_weight 1", "do nothing without --dpo True"),
        ("--replay general.json:0.1", "keep answers with --sft_weight"),
        ("--augment flip", "only what one answer says is looked at"),
        ("--dpo_label_smoothing 0.5", "--dpo_label_smoothing 0.5: expected a number"),
        ("--dpo_beta 0", "--dpo_beta 0: expected a number above 0"),
    ],
)
def test_what_would_make_another_reference_is_refused(more: str, said: str, flags: Flags, pairs: Path) -> None:
    from llava_finetune.config.arguments import parse

    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        parse(command(flags, Path("unused"), pairs, more))


def test_bad_pairs_are_named(flags: Flags, data: Path, tmp_path: Path) -> None:
    good = [pair(f"g-{n}", "two?", "four", "five") for n in range(2)]
    bad = pair("bad", "two?", "four", "four")
    (tmp_path / "pairs.json").write_text(json.dumps([*good, bad]))
    code, text = train(command(flags, tmp_path / "run", tmp_path / "pairs.json", "--max_steps 3"), tmp_path / "out")
    assert code == 1 and "record 'bad': chosen and rejected are the same tokens; nothing is preferred" in text
    (tmp_path / "pairs.json").write_text(json.dumps([pair("long", "two? " * 4, "four", "five")] * 2))
    more = "--max_steps 1 --model_max_length 40"
    code, text = train(command(flags, tmp_path / "cut", tmp_path / "pairs.json", more), tmp_path / "out")
    assert code == 1 and "long" in text and "--model_max_length" in text


def test_a_pair_that_is_cut_before_it_differs_is_told_so(tiny: Path) -> None:
    tokenizer = load_tokenizer(str(tiny), None, 2048)
    late = pair("late", "two?", "four", "five")
    late["conversations"][:0] = [{"from": "human", "value": "one?"}, {"from": "gpt", "value": "it is one"}]
    length = encode(late["conversations"], "v1", tokenizer).spans[0][1]
    with pytest.raises(UserError, match=f"the same tokens within --model_max_length {length}, which cuts both"):
        PairEncoder(tokenizer, "v1", None, None, None, max_length=length).encode(late)
