"""GGUF export without the engine: what is in the files, what is refused, and that nothing is ever left half written."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import signal
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_finetune.cli import run_command
from llava_finetune.convert.export import main
from llava_finetune.convert.gguf import k_quants
from llava_finetune.convert.gguf.export import export_gguf
from llava_finetune.convert.gguf.files import HEAD_BYTES, GgufFile
from llava_finetune.convert.gguf.language_model import permute
from llava_finetune.convert.gguf.ollama import modelfile
from llava_finetune.data.own_template import render
from llava_finetune.errors import UsageError, UserError
from tests.tiny import make_tiny_llava
from tests.tiny_languages import ABOUT, make_tokenizer
from tests.warm import fork

Make = Callable[[str], Path]
FAST = "PreTrainedTokenizerFast"


class Reader:
    """A GGUF file read back: its keys, its tensors' types, and their values in fp32."""

    def __init__(self, path: Path) -> None:
        self.reader = gguf.GGUFReader(path)
        self.tensors = {each.name: each for each in self.reader.tensors}

    def __getitem__(self, key: str) -> Any:
        return self.reader.fields[key].contents()

    def value(self, name: str) -> torch.Tensor:
        found = self.tensors[name]
        values = gguf.quants.dequantize(found.data, found.tensor_type)
        return torch.from_numpy(numpy.array(values)).reshape(list(reversed(found.shape.tolist())))


@pytest.fixture
def copied(family: Make, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the tiny LLaVA-1.5, its config.json changed."""

    def make(**changes: Any) -> Path:
        folder = tmp_path / "source"
        shutil.copytree(family("llava-1.5"), folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        return folder

    return make


@pytest.fixture(scope="module")
def written(family: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "gguf"
    export_gguf(str(family("llava-1.5")), folder, file_type="f32")
    return folder


def test_every_tensor_of_the_language_model_is_there_unchanged(written: Path, family: Make) -> None:
    source, read = load_file(family("llava-1.5") / "model.safetensors"), Reader(written / "model-f32.gguf")
    assert torch.equal(read.value("token_embd.weight"), source["model.embed_tokens.weight"])
    assert torch.equal(read.value("output.weight"), source["lm_head.weight"])
    assert torch.equal(read.value("blk.1.ffn_down.weight"), source["model.layers.1.mlp.down_proj.weight"])
    for part in ("q", "k"):
        own = source[f"model.layers.0.self_attn.{part}_proj.weight"]
        assert torch.equal(read.value(f"blk.0.attn_{part}.weight"), permute(own, 4))
    assert len(read.tensors) == sum("vision_tower" not in name and "mm_projector" not in name for name in source)


def test_heads_are_turned_from_halves_to_pairs() -> None:
    rows = torch.arange(8)[:, None]
    assert permute(rows, 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert permute(rows.flatten(), 1).tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_the_tower_ends_where_the_features_are_taken(written: Path, family: Make) -> None:
    read = Reader(written / "mmproj-f32.gguf")
    assert read["clip.vision.block_count"] == 1
    assert read["clip.vision.feature_layer"] == [1]
    assert read["clip.projector_type"] == "mlp"
    assert not any("post_ln" in name or "blk.1" in name for name in read.tensors)
    tower = load_file(family("llava-1.5") / "clip" / "model.safetensors")
    fc1 = next(value for name, value in tower.items() if name.endswith("layers.0.mlp.fc1.weight"))
    assert torch.equal(read.value("v.blk.0.ffn_up.weight"), fc1)


def test_the_engine_adds_no_bos_because_the_template_writes_it(written: Path) -> None:
    read = Reader(written / "model-f32.gguf")
    assert read["tokenizer.ggml.add_bos_token"] is False
    assert read["tokenizer.chat_template"].startswith("{%- set ns = namespace(system=")
    assert '"<s>' in read["tokenizer.chat_template"]
    types, tokens = read["tokenizer.ggml.token_type"], read["tokenizer.ggml.tokens"]
    assert (tokens[:3], types[:3]) == (["<unk>", "<s>", "</s>"], [2, 3, 3])
    assert types[tokens.index("<0x0A>")] == gguf.TokenType.BYTE


def test_rows_beyond_the_tokens_are_unused(tmp_path: Path) -> None:
    make_tiny_llava(tmp_path / "source", tokenizer="bytes", vocab_size=448)
    export_gguf(str(tmp_path / "source"), tmp_path / "out", file_type="f32")
    read = Reader(tmp_path / "out" / "model-f32.gguf")
    assert read["llama.vocab_size"] == len(read["tokenizer.ggml.tokens"]) == 448
    assert read["tokenizer.ggml.tokens"][447] == "[PAD447]"
    assert read["tokenizer.ggml.token_type"][420:] == [gguf.TokenType.UNUSED] * 28
    assert read["tokenizer.ggml.pre"] == "gpt-2"


@pytest.mark.parametrize(
    ("kind", "matrices", "tower", "error"),
    [("f16", "F16", "F16", 1e-3), ("bf16", "BF16", "F16", 8e-3), ("q8_0", "Q8_0", "F16", 8e-3)],
)
def test_each_type_is_written_as_it_says(
    kind: str, matrices: str, tower: str, error: float, family: Make, tmp_path: Path
) -> None:
    export_gguf(str(family("llava-1.5")), tmp_path / "out", file_type=kind)
    model, mmproj = Reader(tmp_path / "out" / f"model-{kind}.gguf"), Reader(tmp_path / "out" / f"mmproj-{kind}.gguf")
    assert model.tensors["blk.0.ffn_up.weight"].tensor_type.name == matrices
    assert model.tensors["blk.0.attn_norm.weight"].tensor_type.name == "F32"
    assert mmproj.tensors["mm.0.weight"].tensor_type.name == tower
    assert mmproj.tensors["v.position_embd.weight"].tensor_type.name == "F32"
    own = load_file(family("llava-1.5") / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    difference = (model.value("blk.0.ffn_up.weight") - own).abs().max().item()
    assert 0 < difference <= error * own.abs().max().item()


def test_a_trained_towers_weights_come_from_the_model(tmp_path: Path) -> None:
    source = make_tiny_llava(tmp_path / "source", unfreeze_mm_vision_tower=True)
    state = load_file(source / "model.safetensors")
    name = next(key for key in state if key.endswith("layers.0.mlp.fc1.weight") and "vision_tower" in key)
    state[name] = state[name] + 1
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    export_gguf(str(source), tmp_path / "out", file_type="f32")
    assert torch.equal(Reader(tmp_path / "out" / "mmproj-f32.gguf").value("v.blk.0.ffn_up.weight"), state[name])


def test_a_value_that_f16_cannot_hold_stops_the_export(copied: Callable[..., Path], tmp_path: Path) -> None:
    source = copied()
    state = load_file(source / "model.safetensors")
    state["model.layers.0.mlp.up_proj.weight"][3, 4] = 70000.0
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"blk\.0\.ffn_up\.weight: 7e\+04 is more than F16 can hold .* --type f32"):
        export_gguf(str(source), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]
    export_gguf(str(source), tmp_path / "out", file_type="bf16")


REFUSED = [
    (
        {"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad"},
        r"anyres .* counts another number of",
    ),
    ({"mm_projector_type": "linear"}, 'mm_projector_type "linear" is not written as GGUF; supported: mlp2x_gelu'),
    ({"mm_vision_select_feature": "cls_patch"}, 'mm_vision_select_feature "cls_patch"; llama.cpp always leaves the'),
    ({"mm_use_im_start_end": True}, "mm_use_im_start_end is true; llama.cpp puts no such tokens"),
    (
        {"model_type": "llava_mpt"},
        'model_type "llava_mpt" cannot be written as GGUF here; supported: llava_llama, llav',
    ),
    (
        {"model_type": "llava_gemma2"},
        r"GGUF here: llama.cpp scales a picture's features .*; supported: .*llava_qwen3.*\. Serve it with: llava",
    ),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 4}}, 'rotary scaling "yarn" is not written as GGUF'),
    ({"no_rope_layers": [1, 0]}, r"no_rope_layers \[1, 0\]: llama.cpp leaves every fourth layer without rotary pos"),
    ({"mm_vision_select_layer": -9}, "mm_vision_select_layer -9 is none of the tower's 2 layers"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_llama_cpp_would_answer_wrongly_is_refused(
    changes: dict[str, Any], message: str, copied: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        export_gguf(str(copied(**changes)), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_a_model_of_crops_is_written_and_the_difference_said(copied: Callable[..., Path], tmp_path: Path) -> None:
    written = export_gguf(str(copied(image_aspect_ratio="square")), tmp_path / "out")
    assert any("llama.cpp always pads: send it square pictures" in note for note in written.notes)


def test_another_padding_colour_is_said(copied: Callable[..., Path], tmp_path: Path) -> None:
    source = copied()
    settings = json.loads((source / "clip" / "preprocessor_config.json").read_text())
    own = tmp_path / "tower"
    shutil.copytree(source / "clip", own)
    (own / "preprocessor_config.json").write_text(json.dumps({**settings, "image_mean": [0.5, 0.5, 0.5]}))
    written = export_gguf(str(source), tmp_path / "out", vision_tower=str(own))
    assert any("pads with the colour (122, 116, 104)" in note for note in written.notes)


def _change_tokenizer(folder: Path, **changes: Any) -> None:
    """Change tokenizer.json, and name a class that reads it as it stands."""
    for name, more in (("tokenizer.json", changes), ("tokenizer_config.json", {"tokenizer_class": FAST})):
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def test_a_tokenizer_that_cuts_text_in_an_unknown_way_is_refused_by_name(tmp_path: Path) -> None:
    source = make_tiny_llava(tmp_path / "source", tokenizer="bytes")
    cut = {"type": "Split", "pattern": {"Regex": "[A-Z][a-z]+"}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    _change_tokenizer(source, pre_tokenizer={"type": "Sequence", "pretokenizers": [cut, level]})
    with pytest.raises(
        UserError, match=r"cuts text in a way that has no known name .*\[A-Z\]\[a-z\]\+.*known: gpt-2, "
    ):
        export_gguf(str(source), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_normalizer_is_refused_because_llama_cpp_has_none(tmp_path: Path) -> None:
    source = make_tiny_llava(tmp_path / "source", tokenizer="bytes")
    _change_tokenizer(source, normalizer={"type": "Lowercase"})
    with pytest.raises(UserError, match=r'normalizer \{"type": "Lowercase"\}'):
        export_gguf(str(source), tmp_path / "out")


def test_an_adapter_is_sent_to_merge_first(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is an adapter; merge it first: llava-finetune merge "):
        export_gguf(str(adapter), tmp_path / "out")


def test_a_folder_with_something_in_it_is_left_alone(family: Make, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="exists and is not empty; give a new folder, nothing is overwritten"):
        export_gguf(str(family("llava-1.5")), tmp_path)


def test_the_modelfile_names_both_files_template_stop_and_no_chance(written: Path) -> None:
    lines = (written / "Modelfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("FROM")] == ["FROM ./model-f32.gguf", "FROM ./mmproj-f32.gguf"]
    (template,) = (line for line in lines if line.startswith("TEMPLATE"))
    assert template.startswith('TEMPLATE """<s> {{ if .System }}{{ .System }}{{ else }}A chat between a curious user')
    assert template.endswith(
        '{{ else if eq .Role "assistant" }}ASSISTANT: {{ .Content }}</s>{{ end }}{{ end }}ASSISTANT:"""'
    )
    assert 'PARAMETER stop "</s>"' in lines
    assert "PARAMETER temperature 0" in lines


GO = re.compile(
    r'TEMPLATE """\{\{ if .System \}\}(.*)\{\{ else \}\}(.*)\{\{ end \}\}\{\{ range .Messages \}\}'
    r'\{\{ if eq .Role "user" \}\}(.*)\{\{ else if eq .Role "assistant" \}\}(.*)\{\{ end \}\}\{\{ end \}\}(.*)"""',
    re.DOTALL,
)


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_the_modelfile_of_a_tokenizers_own_template_writes_what_it_writes(name: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(ABOUT[name], tmp_path)
    text = modelfile("chat_template", "", tokenizer, ["a.gguf", "b.gguf"], [])
    assert 'PARAMETER stop "<|im_end|>"' in text
    given, default, *turns, last = GO.search(text).groups()  # type: ignore[union-attr]
    for system in (None, "Be brief."):
        said = [{"role": role, "content": role} for role in ("user", "assistant", "user", "assistant", "user")]
        head = default if system is None else given.replace("{{ .System }}", system)
        made = [turns[index % 2].replace("{{ .Content }}", one["content"]) for index, one in enumerate(said)]
        asked = [{"role": "system", "content": system}, *said] if system else said
        assert head + "".join(made) + last == render(asked, tokenizer, open_end=True)
    tokenizer.chat_template = tokenizer.chat_template.replace("m.content", "('' if loop.index > 2 else m.content)")
    with pytest.raises(UserError, match="writes later turns otherwise than the first ones, and has no Modelfile"):
        modelfile("chat_template", "", tokenizer, ["a.gguf", "b.gguf"], [])


def test_the_command_says_how_to_serve_and_what_differs(
    family: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gguf"
    assert main([str(family("llava-1.5")), str(out), "--format", "gguf", "--type", "q8_0"]) == 0
    said = capsys.readouterr().out
    assert "model-q8_0.gguf and mmproj-q8_0.gguf" in said
    assert "token ids of 4 conversations are those of training" in said
    assert "issue 25814" in said
    assert f"llama-server -m {out}/model-q8_0.gguf --mmproj {out}/mmproj-q8_0.gguf --jinja --temp 0" in said
    with pytest.raises(UsageError, match="--type q8_0 is of GGUF files; give --format gguf too"):
        main([str(family("llava-1.5")), str(tmp_path / "other"), "--type", "q8_0"])


def test_k_quants_are_made_by_llama_cpps_own_program(
    family: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_QUANTIZE", "no-such-program")
    with pytest.raises(UserError, match=r"LLAMA_QUANTIZE=no-such-program: no such program; name llama.cpp's llama-q"):
        export_gguf(str(family("llava-1.5")), tmp_path / "out", file_type="q4_k_m")
    monkeypatch.delenv("LLAMA_QUANTIZE")
    monkeypatch.setenv("LLAVA_ENGINES", str(tmp_path / "none"))
    monkeypatch.setitem(sys.modules, "cyllama", None)
    with pytest.raises(UserError, match=r"is not found; install its library: bash scripts/engines.sh llama-quantize"):
        export_gguf(str(family("llava-1.5")), tmp_path / "out", file_type="q4_k_m")
    program = tmp_path / "llama-quantize"
    program.write_text('#!/bin/sh\n[ "$3" = Q4_K_M ] && cp "$1" "$2"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("LLAMA_QUANTIZE", str(program))
    written = export_gguf(str(family("llava-1.5")), tmp_path / "out", file_type="q4_k_m")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"model-q4_k_m.gguf", "mmproj-f16.gguf", "Modelfile", "README.md", "llava_finetune.json"}
    assert written.model == "model-q4_k_m.gguf"
    program.write_text("#!/bin/sh\necho no such type >&2; exit 3\n")
    with pytest.raises(UserError, match=r"cannot write q4_k_m \(exit code 3\): no such type"):
        export_gguf(str(family("llava-1.5")), tmp_path / "again", file_type="q4_k_m")
    assert not (tmp_path / "again").exists()


def test_a_disk_without_room_is_told_before_writing(
    family: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    with pytest.raises(UserError, match=r"writing takes 0\.1 GB and its disk has 0\.0 GB free; make room"):
        export_gguf(str(family("llava-1.5")), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_k_quants_need_room_for_both_files_and_memory_for_a_tensor(
    family: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "llama-quantize"
    program.write_text('#!/bin/sh\ncp "$1" "$2"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("LLAMA_QUANTIZE", str(program))
    written = export_gguf(str(family("llava-1.5")), tmp_path / "f16")
    room = 2 * HEAD_BYTES + written.bytes  # enough for the two F16 files
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=room))
    with pytest.raises(UserError, match=r"writing takes .* free; make room"):
        export_gguf(str(family("llava-1.5")), tmp_path / "out", file_type="q4_k_m")
    monkeypatch.undo()
    monkeypatch.setenv("LLAMA_QUANTIZE", str(program))
    monkeypatch.setattr(k_quants, "available_ram", lambda: 100_000)
    said = r"--type q4_k_m: llama.cpp needs 0 MB of memory for \w+\.weight and 0 MB are free; end other programs"
    with pytest.raises(UserError, match=said):
        export_gguf(str(family("llava-1.5")), tmp_path / "out", file_type="q4_k_m")
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_is_one_message_and_leaves_nothing(family: Make, tmp_path: Path) -> None:
    """The kernel itself refuses to write past a file size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"cannot be written \(.*\); nothing was left behind") as caught:
            export_gguf(str(family("llava-1.5")), tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_message(
    family: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"out: cannot be written \(Read-only file system\); .* that you may write"):
        export_gguf(str(family("llava-1.5")), tmp_path / "out")


def started(child: Callable[[], None], said: Path) -> int:
    """The pid of a forked child, what it prints in a file."""
    with said.open("w") as file:
        return fork(child, [file.fileno(), file.fileno()])


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_export_leaves_nothing_half_written(
    how: signal.Signals, family: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = family("llava-1.5"), tmp_path / "out"
    whole = GgufFile.write

    def slow(self: GgufFile, path: Path, advance: Callable[[int], None]) -> int:
        size = whole(self, path, advance)
        (tmp_path / "writing").touch()
        time.sleep(60)
        return size

    def child() -> None:
        monkeypatch.setattr(GgufFile, "write", slow)
        run_command("llava_finetune.convert.export", [str(source), str(out), "--format", "gguf"])

    pid = started(child, tmp_path / "said")
    deadline = time.monotonic() + 60
    while not (tmp_path / "writing").exists():
        assert time.monotonic() < deadline, (tmp_path / "said").read_text()
        time.sleep(0.02)
    os.kill(pid, how)
    os.waitpid(pid, 0)
    assert not out.exists()
    (tmp_path / "writing").unlink()
    left = [path.name for path in tmp_path.iterdir() if path.name.endswith(".partial")]
    assert len(left) == (1 if how == signal.SIGKILL else 0)
    export_gguf(str(source), out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "said"]


def test_an_export_needs_no_more_memory_than_a_tensor_and_what_is_written_of_it(
    family: Make, tmp_path: Path, note: Callable[[str], None]
) -> None:
    """A model of 100 MB with tensors of up to 8 MB, written in a child: by how much its peak grows."""
    make_tiny_llava(
        tmp_path / "source", hidden_size=1024, intermediate_size=4096, num_hidden_layers=3, num_attention_heads=8,
        num_key_value_heads=8,
    )  # fmt: skip
    small = family("llava-1.5")
    state = load_file(tmp_path / "source" / "model.safetensors")
    save_file({k: v.to(torch.bfloat16) for k, v in state.items()}, tmp_path / "source" / "model.safetensors")
    del state
    assert (tmp_path / "source" / "model.safetensors").stat().st_size > 90_000_000

    def child() -> None:
        export_gguf(str(small), tmp_path / "first", file_type="q8_0")  # what is imported is imported
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _peak()
        export_gguf(str(tmp_path / "source"), tmp_path / "out", file_type="q8_0")
        (tmp_path / "grown").write_text(str(_peak() - before))

    pid = started(child, tmp_path / "said")
    os.waitpid(pid, 0)
    grown = int((tmp_path / "grown").read_text())
    note(f"GGUF of a 100 MB model with tensors of 8 MB: the export's peak is {grown / 1e6:.0f} MB above the start")
    assert grown < 60_000_000


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
