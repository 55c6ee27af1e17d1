"""Every kind of model is published with its card and certificate; what nobody could load is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_finetune.convert.gguf.export import export_gguf
from llava_finetune.errors import UserError
from llava_finetune.publish.push import main
from llava_finetune.report.model_card import carry_card
from tests.data_prep.upload_hub import UploadHub


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
    assert "Training, llava-finetune merge and export write one beside the model" in capsys.readouterr().out


@pytest.fixture(scope="module")
def certified(family: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model with a certificate in which one engine was asked."""
    folder = tmp_path_factory.mktemp("certified") / "merged"
    shutil.copytree(family("llava-1.5"), folder)
    asked = {"engine": "vllm", "version": "vllm 0.32.0", "identical": 9, "count": 9, "verdict": "same"}
    (folder / "certificate.json").write_text(json.dumps({"engines": [asked]}))
    return folder


@pytest.mark.parametrize(
    ("kind", "holds"),
    [
        ("merged", {"config.json", "model.safetensors", "clip/model.safetensors", "tokenizer.model"}),
        ("exported", {"config.json", "model.safetensors.index.json", "chat_template.jinja", "generation_config.json"}),
        ("gguf", {"model-f32.gguf", "mmproj-f32.gguf", "Modelfile"}),
    ],
)
def test_a_model_of_each_kind_is_sent_whole_with_its_card_and_certificate(
    kind: str,
    holds: set[str],
    certified: Path,
    exported: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / kind
    if kind == "gguf":
        export_gguf(str(certified), folder, file_type="f32")
    else:
        shutil.copytree(certified if kind == "merged" else exported("llava-1.5"), folder)
        assert kind == "merged" or (folder / "README.md").is_file(), "export writes a card"
        carry_card(folder, certified)  # as export does for a model that has a certificate
    with UploadHub(tmp_path / "hub") as hub:
        hub.is_the_hub(monkeypatch)
        assert main([str(folder), "owner/name"]) == 0
        sent = set(hub.files("models/owner/name"))
    there = tmp_path / "hub" / "models" / "owner" / "name"
    assert holds | {"README.md", "certificate.json"} <= sent
    assert all((there / name).read_bytes() == (folder / name).read_bytes() for name in sent)
    assert "| vllm | vllm 0.32.0" in (there / "README.md").read_text()
