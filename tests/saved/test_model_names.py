"""A model's name as it was typed: a folder that is not there is said at once, and not asked of the hub."""

from pathlib import Path

import pytest

from llava_finetune.errors import UserError
from llava_finetune.model.loaded import kind_of
from llava_finetune.saved.checkpoints import seal
from llava_finetune.saved.model_names import require_there


def test_a_folder_that_is_not_there_is_named_with_the_one_that_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "merged").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in ("runs/mergd", "./runs/Merge", str(tmp_path / "runs" / "mergd")):
        with pytest.raises(UserError, match=r"no such folder; did you mean .*runs/merged\?"):
            require_there(name)
        with pytest.raises(UserError, match="no such folder"):
            kind_of(name)
    with pytest.raises(UserError, match=r"~/llava: no such folder; give a model's folder, or a hub id"):
        require_there("~/llava")
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"MODEL=\./model\.bin: a file; give the model's folder"):
        require_there("./model.bin", "MODEL=")


@pytest.mark.parametrize("name", ["liuhaotian/llava-v1.5-7b", "gpt2"])
def test_a_hub_id_is_left_to_the_hub(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    require_there(name)
    assert kind_of(name) == "model"


def test_a_run_that_has_not_ended_names_its_last_checkpoint(tmp_path: Path) -> None:
    for step in (9, 11):
        (tmp_path / f"checkpoint-{step}").mkdir()
        seal(tmp_path / f"checkpoint-{step}", {"step": step})
    with pytest.raises(UserError, match=r"its training has not ended: give .*checkpoint-11, or train on with --resume"):
        kind_of(tmp_path)
