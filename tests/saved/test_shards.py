"""Weights in a stream: whole or refused, equal bytes, little memory, and pickles that cannot run code."""

from __future__ import annotations

import json
import pickle
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_finetune.convert.weights import resize_rows
from llava_finetune.errors import UserError
from llava_finetune.saved.pickles import load_pickle
from llava_finetune.saved.shards import (
    ShardWriter,
    StoredTensor,
    open_shard,
    weight_files,
    write_safetensors,
)

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8, torch.bool]


def stored(name: str, value: torch.Tensor) -> StoredTensor:
    return StoredTensor(name, tuple(value.shape), value.dtype, lambda: value)


def test_what_is_written_is_what_the_library_reads(tmp_path: Path) -> None:
    values = {f"t{i}": (torch.randn(3, 5) * 100).to(dtype) for i, dtype in enumerate(DTYPES)}
    values["scalar"] = torch.tensor(2.5)
    values["empty"] = torch.zeros(0, 4)
    values["turned"] = torch.arange(12).reshape(3, 4).T
    write_safetensors(tmp_path / "a.safetensors", [stored(name, value) for name, value in values.items()])
    read = load_file(tmp_path / "a.safetensors")
    assert read.keys() == values.keys()
    assert all(torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in values.items())


def test_several_shards_get_an_index_that_names_every_tensor(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path)
    writer.add_shard([stored("a", torch.ones(2))])
    writer.add_shard([])
    writer.add_shard([stored("b", torch.zeros(2))])
    writer.finish()
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    assert [path.name for path in weight_files(tmp_path)] == list(index["weight_map"].values())


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path)
    writer.add_shard([stored("a", torch.ones(2))])
    with pytest.raises(UserError, match="a is in two shards; the source folder mixes two models"):
        writer.add_shard([stored("a", torch.ones(2))])


def test_a_folder_without_weights_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no weights; expected one of model\.safetensors, pytorch_model\.bin"):
        weight_files(tmp_path)


def test_half_a_shard_is_refused_with_both_sizes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(1000)}, path)
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[: whole // 2])
    with pytest.raises(
        UserError, match=rf"the shard is not whole \({whole // 2:,} bytes, its header promises {whole:,}\)"
    ):
        weight_files(tmp_path)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"shape": "x"}, "shape: expected a list"),
        ({"shape": [-1]}, "expected a whole number of at least 0, found -1"),
        ({"data_offsets": [-4, 4000]}, "expected a whole number of at least 0, found -4"),
        ({"dtype": 5}, "dtype: expected a string, found 5"),
        ({"dtype": "X"}, "its header is damaged"),
        ({"dtype": "F8_E4M3", "shape": [4000]}, "a is of type F8_E4M3; expected one of F64, F32"),
        ({"shape": [2**40, 2**40]}, "its header is damaged"),
        ({"shape": [7]}, "its header is damaged"),
    ],
)
def test_a_header_of_wrong_values_is_refused_by_its_place(tmp_path: Path, row: dict[str, Any], told: str) -> None:
    text = json.dumps({"a": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000], **row}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4000))
    with pytest.raises(UserError, match=rf"model\.safetensors: .*{re.escape(told)}"):
        for file in weight_files(tmp_path):
            with open_shard(file):
                pass


def test_a_shard_that_the_index_names_and_the_folder_lacks_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    with pytest.raises(UserError, match=r"model-1\.safetensors: the index names this shard and it is not there"):
        weight_files(tmp_path)


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, (str(Path(__file__).with_name("never-written")), "w"))


@pytest.mark.parametrize("kind", ["zip", "plain"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "pytorch_model.bin"
    if kind == "zip":
        torch.save({"a": _Evil()}, path)
    else:
        path.write_bytes(pickle.dumps({"a": _Evil()}, protocol=2))
    with pytest.raises(UserError, match="refused: it is not a plain and whole file of tensors"):
        load_pickle(path)
    assert not Path(__file__).with_name("never-written").exists()


def test_bin_shards_are_read_too(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(6.0)}, tmp_path / "pytorch_model.bin")
    with open_shard(weight_files(tmp_path)[0]) as tensors:
        assert [(t.name, t.shape, t.dtype) for t in tensors] == [("a", (6,), torch.float32)]
        assert torch.equal(tensors[0].load(), torch.arange(6.0))


def test_new_rows_of_a_vocabulary_are_never_the_likeliest() -> None:
    torch.manual_seed(0)
    head = torch.randn(50, 16)
    longer = resize_rows(head, 64)
    assert torch.equal(longer[:50], head)
    logits = longer @ torch.randn(16, 1000)
    assert bool((logits[:50].max(0).values > logits[50:].max(0).values).all())
    assert torch.equal(resize_rows(longer, 50), head)


MEASURE = """
import resource, sys
from pathlib import Path
from llava_finetune.convert import weights
from llava_finetune.saved import tensor_names
from llava_finetune.saved.shards import ShardWriter, weight_files
source, out = Path(sys.argv[1]), Path(sys.argv[2])
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
import torch, safetensors.torch
before, tally = peak(), weights.Tally()
target = lambda n: weights.Target("model", tensor_names.to_llava_hf(n))
route = weights.route_with(tensor_names.from_upstream, target, source)
writer = ShardWriter(out)
weights.move_tensors(weight_files(source), route, {"model": writer}, tally)
writer.finish()
print(peak() - before)
"""


def test_a_conversion_holds_one_shard_not_the_model(tmp_path: Path) -> None:
    shard_bytes, num_shards = 32_000_000, 8
    writer = ShardWriter(tmp_path / "model")
    for index in range(num_shards):
        writer.add_shard(
            [stored(f"model.layers.{index}.part{part}", torch.ones(1000, shard_bytes // 16_000)) for part in range(4)]
        )
    writer.finish()
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "model"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    grown = int(done.stdout.split()[-1])
    assert grown < 2 * shard_bytes, f"{grown / 1e6:.0f} MB for shards of {shard_bytes / 1e6:.0f} MB"
