"""What nobody could load is not published."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_finetune.errors import UserError
from llava_finetune.publish.push import main


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        (
            "adapter_model.safetensors",
            Path.unlink,
            "an adapter without adapter_model.safetensors: nobody could load it",
        ),
        ("adapter_config.json", Path.unlink, "an adapter without adapter_config.json: nobody could load it"),
        ("adapter_model.safetensors", lambda file: file.write_bytes(file.read_bytes()[:-1]), "the shard is not whole"),
        ("llava_finetune.json", lambda file: file.write_text("5"), "llava_finetune.json: expected an object"),
    ],
)
def test_a_damaged_folder_is_refused(
    name: str, spoil: Callable[[Path], object], said: str, adapter: Path, tmp_path: Path
) -> None:
    shutil.copytree(adapter, tmp_path / "run")
    words = [str(tmp_path / "run"), "me/mine", "--dry-run"]
    assert main(words) == 0
    spoil(tmp_path / "run" / name)
    with pytest.raises(UserError, match=said):
        main(words)


def test_a_model_without_a_card_is_told_what_writes_one(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(adapter, tmp_path / "run")
    (tmp_path / "run" / "README.md").unlink(missing_ok=True)
    assert main([str(tmp_path / "run"), "me/mine", "--dry-run"]) == 0
    assert "Training and llava-finetune merge write one beside the model" in capsys.readouterr().out
