"""`llava-finetune report`: one run, several runs, and wrong use."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from llava_finetune.errors import UsageError, UserError
from llava_finetune.report import main


def test_one_run_is_rewritten_and_summed_up(make_run, capsys):
    folder = make_run(num_images=2)
    assert main([str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Exact match rose from") and out.rstrip().endswith(f"written: {folder / 'report.html'}")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("run.json", b"\0\0", "run.json cannot be read"),
        ("log.jsonl", b'{"step": "1"}\n{"step": "2"}\n', "log.jsonl: none of its 2 lines has a step"),
    ],
)
def test_what_could_not_be_read_is_said_where_the_command_ends(make_run, capsys, name, content, said):
    run = make_run()
    (run / name).write_bytes(content)
    assert main([str(run)]) == 0
    assert f"WARNING: {run}: {said}" in capsys.readouterr().err


def test_json_is_printed_on_request(make_run, capsys):
    assert main([str(make_run(num_images=2)), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["final"]["count"] == 12


def test_runs_are_compared_with_a_paired_test_and_their_settings(make_run, tmp_path, capsys):
    runs = [make_run(name, num_images=30, skill=skill) for name, skill in (("weak", 0.6), ("strong", 0.98))]
    manifest = json.loads((runs[0] / "run.json").read_text())
    manifest["arguments"]["lora_r"] = 8
    (runs[0] / "run.json").write_text(json.dumps(manifest))
    assert main([str(run) for run in runs]) == 0
    assert "strong has the highest exact match" in capsys.readouterr().out
    data = json.loads((tmp_path / "comparison" / "report.json").read_text())
    assert set(data["scores"]) == {"weak", "strong"}
    assert data["paired_tests"]["strong"]["difference"] > 0.1 and data["paired_tests"]["strong"]["p_value"] < 0.01
    assert data["settings"]["lora_r"] == [8, 128] and "learning_rate" not in data["settings"]
    page = (tmp_path / "comparison" / "report.html").read_text("utf-8")
    assert "Against weak" in page and "Settings that differ" in page and page.count("<figure") >= 6


def test_runs_that_cannot_be_told_apart_are_called_so(make_run, capsys):
    runs = [make_run(name, num_images=5, seed=1) for name in ("one", "two")]
    assert main([str(run) for run in runs]) == 0
    assert "it cannot be told apart from" in capsys.readouterr().out


def test_an_unfinished_run_can_be_compared(make_run, tmp_path):
    runs = [make_run("done", num_images=2), make_run("going", num_images=2, upto=20)]
    assert main([*map(str, runs), "--output", str(tmp_path / "here")]) == 0
    assert (tmp_path / "here" / "report.html").exists()


def test_a_missing_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="none: no such run folder; give the folder that training wrote"):
        main([str(tmp_path / "none")])


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"neither run.json, log.jsonl nor scores-\*.json in it; is it a run folder\?"):
        main([str(tmp_path)])


def test_the_same_run_twice_is_wrong_use(make_run):
    folder = str(make_run(num_images=1))
    with pytest.raises(UsageError, match="a run is given twice"):
        main([folder, folder])


def test_help_loads_neither_torch_nor_matplotlib():
    code = (
        "import sys\nfrom llava_finetune.report import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as done:\n    assert done.code == 0\n"
        "assert not {'torch', 'matplotlib', 'numpy', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
