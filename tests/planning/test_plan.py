"""llava-finetune plan: the table, the launcher line, and what fits where."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_finetune.cli import main
from llava_finetune.errors import UsageError, UserError
from llava_finetune.machine import GB, Gpu
from llava_finetune.planning import exact, plan, proposals
from llava_finetune.planning.disk_and_time import _told
from llava_finetune.planning.from_config import read_shape
from llava_finetune.planning.memory import estimate
from llava_finetune.planning.setting import LORA_RANK, Setting
from patches import stamp

ROOT = Path(__file__).resolve().parents[2]
SEVEN = "liuhaotian/llava-v1.5-7b"


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert main(["plan", "--model", SEVEN, "--json", *arguments]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_the_plan_of_7b_lora_on_24_gb_is_golden(
    capsys: pytest.CaptureFixture[str], golden: Callable[[Path, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "available_ram", lambda: 64 * GB)
    monkeypatch.setattr(proposals.os, "cpu_count", lambda: 2)
    assert main(["plan", "--model", SEVEN, "--mode", "lora", "--gpus", "1x24GB"]) == 0
    golden(Path(__file__).parent / "golden" / "plan.txt", capsys.readouterr().out)


@pytest.mark.parametrize("script", ["finetune_lora.sh", "finetune_qlora.sh"])
def test_without_a_rank_the_plan_is_for_the_one_that_the_launch_scripts_train(script: str) -> None:
    given = re.search(r"--lora_r (\d+)", (ROOT / "scripts" / script).read_text())
    assert given and int(given[1]) == LORA_RANK == plan._parser().parse_args(["--model", SEVEN]).lora_r


@pytest.mark.parametrize(
    ("mode", "gpus", "config"),
    [
        ("lora", "1x24GB", "zero2"),
        ("qlora", "1x16GB", "zero2"),
        ("full", "8x80GB", "zero2"),
        ("full", "8x24GB", "zero3"),
        ("full", "1x24GB", "zero2_offload"),
    ],
)
def test_a_proposal_fits_its_gpus(mode: str, gpus: str, config: str) -> None:
    number, size = proposals.read_gpus(gpus)
    found = proposals.propose(read_shape(SEVEN), Setting(mode, num_gpus=number), size, 128)
    assert found is not None and found.config == config
    assert found.estimate.total <= size
    assert found.setting.batch * found.accumulation * number == 128


def test_a_qlora_is_never_given_zero3() -> None:
    settings = list(proposals.candidates(Setting("qlora", num_gpus=8)))
    assert {setting.stage for setting in settings} == {2}


def test_the_smallest_setting_is_the_smallest_of_all() -> None:
    shape, wanted = read_shape(SEVEN), Setting("full", num_gpus=2)
    setting, size = proposals.smallest(shape, wanted)
    assert (
        size
        == estimate(shape, setting).total
        == min(estimate(shape, one).total for one in proposals.candidates(wanted))
    )


def test_a_gpu_too_small_for_the_mode_says_by_how_much(capsys: pytest.CaptureFixture[str]) -> None:
    model = "liuhaotian/llava-v1.6-34b"
    assert main(["plan", "--model", model, "--mode", "qlora", "--gpus", "1x24GB"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"{model}: qlora needs at least ") and " too little; " in last
    assert "use lora or full on these GPUs" in last, "offloaded 16-bit modes need less of the GPU"


def test_a_family_is_planned_by_what_it_can_be_trained_by(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--model", "HuggingFaceTB/SmolVLM-500M-Instruct", "--gpus", "4x4GB"]
    assert main([*words, "--json", "--mode", "full"]) in (0, 1)
    modes = json.loads(capsys.readouterr().out)["modes"]
    assert set(modes) == {"qlora", "lora", "full"}
    assert {values["setting"]["stage"] for values in modes.values()} == {2}, "ZeRO-3 is refused for families"
    for more, said in (
        ("--mode pretrain", "has its connector already"),
        *((one, f"{one}: HuggingFaceTB/SmolVLM-500M-Instruct is none of LLaVA's layouts") for one in
          ("--exact", "--base_dtype fp8")),
        ("--share_pictures --data x.json", "--share_pictures: HuggingFaceTB"),
        ("--vision_tower x", "--vision_tower: HuggingFaceTB"),
    ):  # fmt: skip
        assert main([*words, *more.split()]) == 2
        assert said in capsys.readouterr().err


def test_a_small_card_gets_whole_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    model = "HuggingFaceTB/SmolVLM-500M-Instruct"
    for size, said in (("4GB", True), ("12GB", False)):
        assert main(["plan", "--model", model, "--gpus", f"1x{size}"]) == 0
        shown = capsys.readouterr().out
        assert ("pictures are left whole: cut into tiles too few fit" in shown) is said
        assert ("--image_aspect_ratio pad" in shown) is said
        assert f"1 picture(s) of up to {67 if said else 1129} tokens" in shown
        chosen = proposals.choose_for_launch(
            model=model, mode="lora", num_gpus=1, gpu=size, data=None, global_batch=8, flags=()
        )
        assert (chosen.flags[-2:] == ("--image_aspect_ratio", "pad")) is said and len(chosen.notes) == 1 + said
    cut = proposals.choose_for_launch(
        model=model, mode="lora", num_gpus=1, gpu="4GB", data=None, global_batch=8,
        flags=("--image_aspect_ratio", "anyres"),
    )  # fmt: skip
    assert "--image_aspect_ratio" not in cut.flags and "batch 1 " in cut.notes[0]
    assert read_shape("llava-hf/llava-onevision-qwen2-0.5b-ov-hf").uncut is None, "it has its own way alone"


def test_what_a_family_needs_at_least_is_said_of_whole_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--model", "HuggingFaceM4/idefics2-8b", "--gpus", "1x8GB"]) == 1
    shown = capsys.readouterr().out
    assert "of up to 66 tokens" in shown and "lora needs at least 19.5 GB" in shown


def test_a_base_model_is_answered_with_its_tuned_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--model", "HuggingFaceM4/idefics-9b", "--gpus", "1x8GB"]) == 1
    assert "did you mean HuggingFaceM4/idefics-9b-instruct? " in capsys.readouterr().err


def test_json_holds_every_mode_with_and_without_checkpointing(capsys: pytest.CaptureFixture[str]) -> None:
    answer = planned(capsys, "--gpus", "1x24GB")
    modes = answer["modes"]
    assert isinstance(modes, dict) and set(modes) == set(plan.MODES)
    for values in modes.values():
        assert set(values["bytes"]) == {"with_checkpointing", "without_checkpointing"}
        parts = dict(values["bytes"]["with_checkpointing"])
        assert parts.pop("total") == sum(parts.values())
    assert modes["lora"]["trainable_parameters"] == 340_795_392


def test_the_records_lengths_and_pictures_are_counted(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>\n<image>\n" + "word " * 200}, {"from": "gpt", "value": "yes " * 50}]
    rows = [{"id": "a", "image": ["a.png", "b.png"], "conversations": turns}] * 3
    path = tmp_path / "records.json"
    path.write_text(json.dumps(rows))
    found = proposals.lengths(str(path))
    assert found["images"] == 2
    assert 250 < found["text_tokens"] < 500 and 50 <= found["supervised_tokens"] < 80


def test_data_without_pictures_needs_less(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "good day"}]
    path = tmp_path / "records.json"
    path.write_text(json.dumps([{"id": "a", "conversations": turns}] * 3))
    with_pictures = planned(capsys, "--gpus", "8x80GB")["modes"]
    without = planned(capsys, "--gpus", "8x80GB", "--data", str(path), "--global-batch", "128")["modes"]
    assert isinstance(with_pictures, dict) and isinstance(without, dict)
    assert without["lora"]["setting"]["batch"] >= with_pictures["lora"]["setting"]["batch"]
    assert without["lora"]["setting"]["images"] == 0


@pytest.mark.parametrize("text", ["4", "x24GB", "0x24GB", "24"])
def test_an_unreadable_gpu_list_shows_how_to_write_it(text: str) -> None:
    with pytest.raises(UsageError, match=rf"--gpus {text}: expected NUMBERxSIZE, for example 1x24GB"):
        proposals.read_gpus(text)


def test_a_gpu_of_this_machine_is_planned_for_as_the_same_one_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposals, "gpus", lambda: [Gpu(0, "NVIDIA GeForce RTX 4090", 24_564 * 2**20)] * 2)
    number, size = proposals.read_gpus(None)
    assert number == 2 and 0.99 * 24 * GB < size <= 24 * GB


def test_without_a_gpu_the_plan_asks_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposals, "gpus", list)
    with pytest.raises(UsageError, match=r"this machine shows no GPU; say which ones the plan is for: --gpus 1x24GB"):
        proposals.read_gpus(None)


def test_the_printed_line_is_a_command_that_runs(
    capsys: pytest.CaptureFixture[str],
    run_script: Callable[..., "subprocess.CompletedProcess[str]"],
    with_gpus: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_gpus(4, 40)
    asked = ["--lora_r", "64", "--lora_targets", "language,vision", "--model_max_length", "1024", "--data", "d.json"]
    turns = [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "good day"}]
    (tmp_path / "d.json").write_text(json.dumps([{"id": "a", "conversations": turns}] * 3))
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "--model", SEVEN, "--mode", "lora", "--gpus", "4x40GB", *asked]) == 0
    out = capsys.readouterr().out
    words = out[out.index("MODEL=") :].split("\n\n")[0].replace("\\\n", " ").split()
    variables = dict(word.split("=", 1) for word in words[: words.index("bash")])
    script, *flags = words[words.index("bash") + 1 :]
    result = run_script(script, "--dry-run", *flags, **variables)
    assert result.returncode == 0, result.stderr
    assert f"--per_device_train_batch_size {variables['PER_GPU_BATCH']}" in result.stdout
    for words in ("--lora_r 64", "--lora_targets language,vision", "--model_max_length 1024", "--data_path d.json"):
        assert words in result.stdout, "what was planned is what is launched"


def test_planning_imports_no_torch() -> None:
    modules = "llava_finetune.planning.plan, llava_finetune.launching.launch, llava_finetune.saved.supported"
    code = f"import sys; import {modules}; print('torch' in sys.modules)"
    import sys

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_exact_stands_beside_what_is_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"weights": 14e9, "adapters": 1e9, "gradients": 1e9, "optimizer": 3e9, "activations": 2e9, "temporary": 1e9}
    seen = {"peak": 22e9, "reserved": 23e9, "parts": parts, "seconds": 20.4}
    asked: list[dict[str, object]] = []

    def run(command: list[str], **_: object) -> "subprocess.CompletedProcess[str]":
        assert command[1:3] == ["-m", "llava_finetune.pretended_gpu"]
        asked.append(json.loads(command[3]))
        return subprocess.CompletedProcess(command, 0, f"loading\n{json.dumps(seen)}\n", "")

    monkeypatch.setattr(exact.subprocess, "run", run)
    assert main(["plan", "--model", SEVEN, "--gpus", "1x24GB", "--exact"]) == 0
    job = asked[0]
    assert (job["model"], job["mode"], job["stage"], job["batch"]) == (SEVEN, "lora", 0, 4)
    assert (job["steps"], job["gradients"]) == (1, True)
    table = capsys.readouterr().out.split("\n\n")[-1].splitlines()
    how = "batch 4, checkpointing, accumulating"
    assert table[0] == f"lora in one process without DeepSpeed, {how}, in GB; pretended in 20 s:"
    assert [line.split()[-1] for line in table[1:6]] == ["seen", "15.00", "1.00", "3.00", "3.00"]
    assert "22.00" in table[6] and "1.00" in table[7]


def test_a_pretended_training_that_fails_says_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "warning\nerror: the pretended GPU needs a C++ compiler once\n")
    monkeypatch.setattr(exact.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(UserError, match=r"of liuhaotian/llava-v1.5-7b failed: the pretended GPU needs a C\+\+"):
        plan.main(["--model", SEVEN, "--gpus", "1x24GB", "--exact"])


def test_a_stale_tree_is_said_before_anything_is_pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamp, "STAMP", "llava/_no_stamp.json")
    monkeypatch.setattr(exact.subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    with pytest.raises(UserError, match=r"no patched upstream there .*Run: python -m patches apply"):
        plan.main(["--model", SEVEN, "--gpus", "1x24GB", "--exact"])


def test_the_plan_tells_disk_and_a_predicted_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "train.json"
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "a box"}]
    data.write_text(json.dumps([{"id": str(number), "conversations": turns} for number in range(50)]))
    words = ["plan", "--model", SEVEN, "--gpus", "1x24GB"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "Disk: about 14.1 GB for the model and its tower" in said and "4.8 GB for each checkpoint" in said
    assert "ckpt: gradient checkpointing" in said
    assert "Time:" not in said, "without records there is nothing to predict from"
    assert main([*words, "--data", str(data)]) == 0
    assert "of training on one card, predicted" in capsys.readouterr().out
    assert [_told(minutes) for minutes in (0.2, 7.4, 600)] == ["less than a minute", "7 min", "10 h"]


def test_the_launch_names_the_data_and_the_pictures_that_were_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {"id": "a", "conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]}
    (tmp_path / "my train.json").write_text(json.dumps([record]))
    words = ["--gpus", "1x24GB", "--data", str(tmp_path / "my train.json"), "--images", "my photos"]
    assert main(["plan", "--model", SEVEN, *words]) == 0
    said = capsys.readouterr().out
    assert f"MODEL={SEVEN} DATA='{tmp_path / 'my train.json'}' IMAGES='my photos' OUTPUT=runs/lora \\\n" in said
