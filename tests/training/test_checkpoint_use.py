"""Every checkpoint is a model by itself; one with a file cut off is refused; bad held-out data ends before step 1."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llava_finetune.errors import UserError
from llava_finetune.evaluation import evaluate
from llava_finetune.merge import command as merge
from llava_finetune.model.loading import load
from llava_finetune.saved import checkpoints
from llava_finetune.saved.folders import describe
from llava_finetune.serve import chat
from llava_finetune.training.trainer import RunTrainer
from tests.training.conftest import Flags, record, tensors
from tests.training.forked import train

FILES = {
    "lora": {"adapter_config.json", "adapter_model.safetensors", "non_lora_trainables.bin"},
    "full": {"model.safetensors"},
    "pretrain": {"mm_projector.bin"},
}
FILES["qlora"] = FILES["lora"]
BESIDE = {
    "config.json", "generation_config.json", "llava_finetune.json", "preprocessor_config.json", "tokenizer.model",
    "tokenizer_config.json", "checkpoint.json",
}  # fmt: skip


@pytest.mark.parametrize("mode", FILES)
def test_a_checkpoint_is_evaluated_merged_chatted_with_and_read_by_upstream_by_itself(
    mode: str, whole: Any, data: Path, tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(whole(mode) / "checkpoint-4", folder)
    assert {path.name for path in folder.iterdir()} >= FILES[mode] | BESIDE
    for name in ("tokenizer.model", "tokenizer_config.json"):
        assert (folder / name).read_bytes() == (tiny / name).read_bytes(), "the base's own file"
    capfd.readouterr()
    words = ["--model", str(folder), "--data", str(data / "eval.json"), "--image_folder", str(data)]
    assert evaluate.main([*words, "--output", str(tmp_path / "out"), "--max_new_tokens", "3", "--losses"]) == 0
    said = "".join(capfd.readouterr())
    assert "UNEXPECTED" not in said and "MISSING" not in said, said
    rows = [json.loads(line) for line in (tmp_path / "out" / "predictions-final.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and all(row["loss"] > 0 for row in rows)
    kind = {"full": "model", "pretrain": "projector"}.get(mode, "adapter")
    assert describe(str(folder), None).kind == kind
    once = ["--image", str(data / "0.png"), "--once", rows[0]["question"], "--max-new-tokens", "3"]
    assert chat.main([str(folder), "--device", "cpu", *once]) == 0
    assert capfd.readouterr().out.strip().startswith(rows[0]["answer"])
    assert_upstream_reads_the_same(folder, None if kind == "model" else tiny)
    if kind == "adapter":
        assert merge.main([str(folder), str(tmp_path / "merged"), "--records", str(data / "eval.json"),
                           "--images", str(data), "--answers", "2"]) == 0  # fmt: skip
        assert tensors(tmp_path / "merged")
        assert "fine-tuned with llava-finetune" in (tmp_path / "merged" / "README.md").read_text()


def assert_upstream_reads_the_same(folder: Path, base: Path | None) -> None:
    """Upstream's loader gives the model that ours gives: same tensors, once the adapter is merged as it does."""
    from llava.model.builder import load_pretrained_model

    model = load_pretrained_model(str(folder), base and str(base), "any-name", dtype="float32", device="cpu")[1]
    ours = load(folder, dtype="fp32", device="cpu").model
    ours = ours.merge_and_unload() if hasattr(ours, "merge_and_unload") else ours
    wanted = dict(ours.named_parameters())
    assert wanted.keys() == dict(model.named_parameters()).keys()
    for name, value in model.named_parameters():
        torch.testing.assert_close(value, wanted[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "non_lora_trainables.bin", "config.json", "optimizer.pt"]
)
def test_a_checkpoint_with_a_file_cut_off_is_refused_by_every_command(
    name: str, whole: Any, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(whole("lora") / "checkpoint-4", folder)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    message = rf"cut: {name} has [\d,]+ bytes instead of [\d,]+; it was cut off or changed; use another checkpoint"
    words = ["--model", str(folder), "--data", str(data / "eval.json"), "--image_folder", str(data)]
    with pytest.raises(UserError, match=message):
        evaluate.main([*words, "--output", str(tmp_path / "out")])
    with pytest.raises(UserError, match=message):
        merge.main([str(folder), str(tmp_path / "merged")])
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"cut: {name} is missing; use another checkpoint"):
        load(folder)
    assert not (tmp_path / "merged").exists() and not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "non_lora_trainables.bin"])
def test_a_result_with_a_file_cut_off_is_refused(name: str, whole: Any, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(whole("lora"), folder)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) - 100])
    with pytest.raises(UserError, match=r"cut"):
        load(folder)


def folders(output: Path, steps: list[int]) -> None:
    for step in steps:
        (output / f"checkpoint-{step}").mkdir(parents=True)
        (output / f"checkpoint-{step}" / "weights").write_text("whole")
        checkpoints.seal(output / f"checkpoint-{step}", {"step": step})


@pytest.mark.parametrize(
    ("limit", "best", "left"),
    [(None, None, {2, 4, 6, 8}), (2, None, {6, 8}), (1, 4, {4, 8}), (2, 2, {2, 6, 8}), (1, 8, {8})],
)
def test_the_limit_never_deletes_the_best_or_the_last(
    limit: int | None, best: int | None, left: set[int], tmp_path: Path
) -> None:
    folders(tmp_path, [2, 4, 6, 8])
    checkpoints.rotate(tmp_path, limit, best)
    assert {checkpoints.step_of(path) for path in tmp_path.glob("checkpoint-*")} == left


def test_the_last_whole_one_stays_where_a_later_one_is_damaged(tmp_path: Path) -> None:
    folders(tmp_path, [2, 4, 6])
    (tmp_path / "checkpoint-6" / "weights").write_text("half")
    checkpoints.rotate(tmp_path, 1, None)
    assert [checkpoints.step_of(path) for path in checkpoints.checkpoints(tmp_path)] == [4]


BAD = {
    "picture": (
        [record("e-0", "<image>\nwhat?", "red", image="gone.png")],
        "1 of 1 pictures are not in {data}, first 'gone.png' of record 'e-0'; name their folder with "
        "--eval_image_folder",
    ),
    "answer": (
        [record("e-1", "what?", "")],
        '1 of 1 questions cannot be scored, the first: record "e-1": turn 0 has an empty answer to compare with',
    ),
    "reference": (
        [record("e-2", "what?", "red", answers=[["red"], 3])],
        'record "e-2": answers holds a list; expected a list of texts',
    ),
    "text": ([record("e-3", "what?", 7)], 'record "e-3": turn 0 of gpt holds a int; expected a text'),  # type: ignore[arg-type]
    "nothing": ([], "no question with an answer in it"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_held_out_data_is_refused_before_the_first_step(
    name: str, flags: Flags, data: Path, tmp_path: Path
) -> None:
    records, message = BAD[name]
    (tmp_path / "eval.json").write_text(json.dumps(records))
    code, text = train(flags("lora", tmp_path / "run", f"--eval_data_path {tmp_path / 'eval.json'}"), tmp_path / "out")
    assert code == 1, text
    assert f"error: --eval_data_path {tmp_path / 'eval.json'}: " in text and message.format(data=data) in text
    assert "Traceback" not in text and not (tmp_path / "run" / "log.jsonl").exists()


@pytest.mark.parametrize("name", BAD)
def test_bad_held_out_data_is_refused_by_evaluate_before_a_model_is_loaded(
    name: str, data: Path, tmp_path: Path
) -> None:
    records, message = BAD[name]
    file = tmp_path / "eval.json"
    file.write_text(json.dumps(records))
    message = message.format(data=data).replace("--eval_image_folder", "--images")
    with pytest.raises(UserError) as caught:
        evaluate.main(
            ["--model", "no/such", "--data", str(file), "--image_folder", str(data), "--output", str(tmp_path / "out")]
        )
    assert str(caught.value).startswith(f"--data {file}: ") and message in str(caught.value)


def test_no_rank_looks_for_old_checkpoints_in_a_folder_that_another_removes(tmp_path: Path) -> None:
    """transformers' end of training lists that folder on every rank; the first rank may be sweeping `.saving` then."""
    trainer = RunTrainer.__new__(RunTrainer)
    trainer.args, trainer.hp_search_backend = SimpleNamespace(output_dir=str(tmp_path)), None
    (tmp_path / checkpoints.STAGING / "result").mkdir(parents=True)
    (tmp_path / "checkpoint-1").mkdir()
    assert not Path(trainer._get_output_dir(None)).exists()
