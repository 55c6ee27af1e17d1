"""The commands, as a user runs them."""

import ctypes
import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from patches.cli import main
from patches.engine import Memory, run
from patches.series import load_series
from patches.source import read_any
from patches.survey import Verdict, findings
from patches.table import BEGIN, END, markdown_table
from patches.tree import digest_of, read_tree
from tests.patches.conftest import run_module

COMMANDS = ("fetch", "list", "check", "survey", "prove", "apply", "diff", "revert")


def test_two_applies_give_the_same_tree_and_say_so(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ("written", "already current"):
        assert main(["apply", "--source", str(source), "--output", str(tmp_path)]) == 0
        assert words in capsys.readouterr().out
    first = read_tree(tmp_path)
    assert main(["revert", "--output", str(tmp_path)]) == 0
    assert main(["apply", "--source", str(source), "--output", str(tmp_path)]) == 0
    assert read_tree(tmp_path) == first


def test_a_git_checkout_and_the_sdist_give_the_same_tree(tmp_path: Path, source: Path, copy_of_upstream: Path) -> None:
    (copy_of_upstream / ".git").write_text("gitdir: elsewhere\n")
    (copy_of_upstream / "scripts").mkdir()
    (copy_of_upstream / "llava/eval/table").mkdir()
    (copy_of_upstream / "llava/eval/table/rule.json").write_text("{}")
    for name, folder in (("sdist", source), ("git", copy_of_upstream)):
        assert main(["apply", "--source", str(folder), "--output", str(tmp_path / name)]) == 0
    assert read_tree(tmp_path / "sdist") == read_tree(tmp_path / "git")


def test_two_applies_at_once_leave_one_whole_tree(tmp_path: Path, source: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        arguments = ("patches", "apply", "--source", source, "--output", tmp_path)
        done = list(pool.map(lambda _: run_module(*arguments), range(2)))
    assert [each.returncode for each in done] == [0, 0], done
    assert sorted("already current" in each.stdout for each in done) == [False, True]
    assert len([path for path in tmp_path.iterdir() if path.name.startswith(".llava-")]) == 1


def _as_anybody() -> None:
    """In a child: permission bits count for root too (PR_CAPBSET_DROP of CAP_DAC_OVERRIDE)."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)


def _as_on_a_full_disk() -> None:
    """In a child: no file grows beyond 16 KiB; some of upstream's fit, its trainer does not."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384))


@pytest.mark.parametrize(
    ("limit", "reason"), [(_as_anybody, "Permission denied"), (_as_on_a_full_disk, "File too large")]
)
def test_a_folder_that_cannot_be_written_keeps_its_tree_and_is_named(
    tmp_path: Path, source: Path, limit: Callable[[], None], reason: str
) -> None:
    output = tmp_path / "patched"
    assert main(["apply", "--source", str(source), "--output", str(output), "--only", "stack"]) == 0
    before = read_tree(output)
    output.chmod(0o555 if limit is _as_anybody else 0o755)
    done = run_module("patches", "apply", "--source", source, "--output", output, preexec_fn=limit)
    output.chmod(0o755)
    assert done.returncode == 1
    assert done.stderr == (
        f"python -m patches apply: {output}: cannot be written ({reason}); the tree that was there stands as it was. "
        "Make room or give write permission, then run: python -m patches apply\n"
    )
    assert read_tree(output) == before
    assert len(list(output.glob(".llava-*"))) == 1


@pytest.mark.parametrize("place", ["--source", "LLAVA_SRC"])
def test_an_unfilled_submodule_and_a_half_unpacked_sdist_end_with_one_message(
    tmp_path: Path, pristine: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    submodule, half = tmp_path / "third_party/LLaVA", tmp_path / "build/upstream"
    submodule.mkdir(parents=True)
    (half / "llava").mkdir(parents=True)
    (half / "llava/__init__.py").write_bytes(pristine["llava/__init__.py"])
    for folder, words in ((submodule, "no folder llava/ in it"), (half, "49 of 50 files differ")):
        monkeypatch.setenv("LLAVA_SRC", str(folder))
        asked = ("--source", folder) if place == "--source" else ()
        done = run_module("patches", "apply", *asked, "--output", tmp_path / "out")
        assert (done.returncode, done.stdout) == (1, "")
        assert words in done.stderr and "Traceback" not in done.stderr
        assert not (tmp_path / "out").exists()


def test_a_renamed_variable_in_builder_is_named_with_patch_file_function_and_both_texts(
    copy_of_upstream: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    builder = copy_of_upstream / "llava/model/builder.py"
    builder.write_text(re.sub(r"\bvision_tower\b", "tower", builder.read_text()))
    assert main(["check", "--source", str(copy_of_upstream)]) == 1
    message = capsys.readouterr().err
    assert "llava/model/builder.py: changed (sha256 expected" in message
    number = builder.read_text().splitlines().index("        tower = model.get_vision_tower()") + 1
    for words in (
        "builder_tower: llava/model/builder.py, load_pretrained_model: expected 1 place like "
        "`vision_tower = model.get_vision_tower() ...`, found none; nearest, with every difference:\n",
        "      -         vision_tower = model.get_vision_tower()\n",
        f"      +    {number}  tower = model.get_vision_tower()\n",
    ):
        assert words in message


def test_nothing_is_written_when_a_patch_does_not_fit(
    tmp_path: Path, copy_of_upstream: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy_of_upstream / "llava/model/builder.py").write_text("def load():\n    pass\n")
    assert main(["apply", "--source", str(copy_of_upstream), "--output", str(tmp_path / "out")]) == 1
    assert "1 of 50 files differ" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


HEAD_EDITS = {
    "model/llava_arch.py": [(".image_newline[None]\n", ".image_newline[None].to(image_feature.device)\n")],
    "model/builder.py": [
        (
            "lora_cfg_pretrained = AutoConfig.",
            "from llava.model.language_model.llava_llama import LlavaConfig\n"
            "            lora_cfg_pretrained = LlavaConfig.",
        )
    ],
    "serve/cli.py": [("output_ids[0, input_ids.shape[1]:]", "output_ids[0]")],
    "serve/controller.py": [("args=(self,)", "args=(self,), daemon=True")],
    "serve/model_worker.py": [
        ("target=heart_beat_worker, args=(self,)", "target=heart_beat_worker, args=(self,), daemon=True")
    ],
    "eval/model_qa.py": [
        ("class KeywordsStoppingCriteria", "class Renamed"),
        ("conv.append_message(conv.roles[0], qs)", "conv.append_message(conv.roles[0], qs)\n        prompt = None"),
        ("[conv.sep]", "None"),
    ],
    "model/multimodal_encoder/builder.py": [
        (
            "    if is_absolute_path_exists or",
            "    use_s2 = getattr(vision_tower_cfg, 's2', False)\n    if is_absolute_path_exists or",
        )
    ],
    "model/multimodal_encoder/clip_encoder.py": [
        (
            "class CLIPVisionTower(nn.Module):",
            "class CLIPVisionTowerS2(nn.Module):\n    @torch.no_grad()\n    def forward(self, images):\n"
            "        return images\n\n\nclass CLIPVisionTower(nn.Module):",
        )
    ],
}
"""What upstream's last commit changes where patches look, put into the pin's own files."""


def test_the_known_differences_of_upstreams_last_commit_get_the_verdicts_that_the_docs_tell(
    copy_of_upstream: Path, root: Path
) -> None:
    """docs/upgrading.md's table is printed by `survey --markdown` on the commit itself; here, all of it and no more."""
    for name, edits in HEAD_EDITS.items():
        path = copy_of_upstream / "llava" / name
        for old, new in edits:
            assert old in path.read_text(), name
            path.write_text(path.read_text().replace(old, new))
    found = findings(load_series(), read_any(copy_of_upstream), Memory())
    text = (root / "docs/upgrading.md").read_text(encoding="utf-8")
    told = dict(
        re.findall(r"^\| `(\w+)` \| ([a-z ]+) \|", text[text.index("survey REPO c121f0432da2") :], re.MULTILINE)
    )
    assert {each.patch: each.verdict.value for each in found if each.verdict is not Verdict.APPLIES} == told
    counts = ", ".join(f"{sum(each.verdict is verdict for each in found)} {verdict.value}" for verdict in Verdict)
    assert f"{len(found)} patches on c121f0432da2 (2024-05-12): {counts}." in text


def test_a_rehearsal_on_another_version_reports_every_patch(
    copy_of_upstream: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arch = copy_of_upstream / "llava/model/llava_arch.py"
    arch.write_text(
        arch.read_text()
        .replace("self.model.image_newline[None]\n", "self.model.image_newline[None].to(image_feature.device)\n")
        .replace("cur_image_idx = 0", "image_index = 0")
    )
    (copy_of_upstream / "llava/eval/model_qa.py").unlink()
    arguments = ["check", "--source", str(copy_of_upstream), "--any-version"]
    assert main([*arguments, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    status = {row["name"]: row["status"] for row in report["patches"]}
    assert status["image_newline_device"] == "redundant"
    assert status["image_counts"] == "drifted"
    assert status["eval_model_qa"] == status["eval_model_qa_answer"] == status["eval_answer_ids"] == "gone"
    assert sum(value == "applies" for value in status.values()) == len(status) - 5
    assert main(arguments) == 1
    text = capsys.readouterr().out
    assert "edit is there already: `self.model.image_newline[None].to(image_feature.device)` (line 193)" in text
    assert "    it is there already: delete this patch" in text
    assert (
        "found none; nearest, with every difference:\n"
        "           229  new_input_embeds = []\n"
        "           230  new_labels = []\n"
        "      -         cur_image_idx = 0\n"
        "      +    231  image_index = 0\n"
    ) in text
    assert "1 redundant, 0 not needed, 1 drifted, 3 gone, 0 blocked" in text


def test_check_and_diff_write_nothing(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digest_of({str(path): b"" for path in tmp_path.rglob("*")})
    assert main(["check", "--source", str(source)]) == 0
    assert main(["diff", "--source", str(source), "train_mem.py"]) == 0
    out = capsys.readouterr().out
    assert "--- upstream/llava/train/train_mem.py" in out
    assert "builder.py" not in out.split("---", 1)[1]
    assert digest_of({str(path): b"" for path in tmp_path.rglob("*")}) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        main([command, "--help"])
    assert leave.value.code == 0
    assert "examples:\n  python -m patches" in capsys.readouterr().out


def test_wrong_use_ends_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["aply"], ["apply", "--only", "nothing"]):
        with pytest.raises(SystemExit) as leave:
            main(arguments)
        assert leave.value.code == 2


def test_an_error_has_no_traceback(tmp_path: Path) -> None:
    done = run_module("patches", "apply", "--source", tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        f"python -m patches apply: --source {tmp_path}: no folder llava/ in it; "
        "name the root of a LLaVA checkout or sdist\n"
    )


def test_the_engine_imports_libcst_and_the_standard_library_only() -> None:
    code = (
        "import sys, patches.cli, patches.series; patches.series.load_series();"
        "print(sorted({name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    found = {name for name in eval(out) if not name.startswith("_")}
    assert found <= {"patches", "libcst", "yaml", "typing_extensions", "typing_inspect", "mypy_extensions"} | {
        name for name in found if name.startswith(("distutils", "sitecustomize"))
    }


def test_the_table_in_the_readme_is_current(root: Path, pristine: dict[str, bytes]) -> None:
    text = (root / "patches/README.md").read_text(encoding="utf-8")
    committed = text[text.index(BEGIN) : text.index(END) + len(END)]
    wanted = markdown_table(run(load_series(), pristine, count_lines=True))
    assert committed == wanted, "run: python -m patches list --markdown, and put it into patches/README.md"


def test_the_patched_tree_is_the_golden_one(
    root: Path, pristine: dict[str, bytes], golden: Callable[[Path, str], None]
) -> None:
    import hashlib

    report = run(load_series(), pristine)
    lines = [f"{hashlib.sha256(report.files[name]).hexdigest()}  {name}\n" for name in sorted(report.changed_by)]
    golden(root / "tests/patches/golden/patched.sha256", "".join(lines))
