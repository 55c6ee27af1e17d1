"""The notebook for a free T4, executed on a CPU with a tiny model, own pictures and two starts of its training cell."""

from __future__ import annotations

import csv
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from tests.tiny import make_tiny_llava

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "finetune_on_a_free_t4.ipynb"


def test_the_notebook_holds_no_output() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


@pytest.mark.slow(seconds=60)
def test_the_notebook_goes_from_a_table_to_a_tuned_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rows = []
    for index in range(20):
        colour = ("red", "green", "blue")[index % 3]
        Image.new("RGB", (56, 40 + index), colour).save(pictures / f"{index}.png")
        rows.append({"picture": f"{index}.png", "question": "What colour is it?", "answer": colour})
    with (pictures / "colours.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["picture", "question", "answer"])
        writer.writeheader()
        writer.writerows(rows)
    variables = {
        "PROJECT": ROOT, "READY": 1, "KEEP": tmp_path / "keep", "MODEL": make_tiny_llava(tmp_path / "model"),
        "TABLE": pictures / "colours.csv", "EVALUATE_BITS": 16, "NO_PAGE": 1, "DS_ACCELERATOR": "cpu",
        "TRAIN_FLAGS": "--max_steps 4 --dataloader_num_workers 0 --learning_rate 1e-3", "HF_HUB_OFFLINE": 1,
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    train = next(cell for cell in notebook.cells if "finetune_qlora.sh" in cell.source)
    notebook.cells.insert(notebook.cells.index(train) + 1, nbformat.v4.new_code_cell(train.source))
    NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
    said = ["".join(out.get("text", "") for out in cell.get("outputs", [])) for cell in notebook.cells]
    again = notebook.cells.index(train) + 1
    assert "step 4/4" in said[again - 1] and "is finished at step 4 already; nothing to do" in said[again]
    assert any("image/png" in out.get("data", {}) for cell in notebook.cells for out in cell.get("outputs", []))
    assert "final" in said[-3] + said[-2] + said[-1]
