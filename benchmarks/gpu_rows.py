"""The trainings of benchmarks/gpu.py: this project's driver from its command line, on random weights.

The others are in gpu_peers.py.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks import gpu_peers
from benchmarks.gpu_card import device, synchronize

WARM = 2
"""Steps before those that are measured."""
STD = 0.02


def train(job: Any, work: Path) -> dict[str, Any]:
    """Tokens a second, operations and peak memory of a training, and what plan says of it."""
    from llava_finetune.planning.memory import estimate
    from llava_finetune.planning.setting import Setting
    from llava_finetune.pretended_gpu.records import write_records

    shape = shape_of(job.tiny)
    shared = ((job.batch, job.pictures),) if job.pictures else ()
    setting = Setting(
        job.mode, batch=job.batch, checkpointing=job.checkpointing, stage=0, text_tokens=job.text,
        supervised_tokens=job.taught, base_dtype=job.base_dtype, rank=8 if job.tiny else 128, accumulated=False,
        shared=shared,
    )  # fmt: skip
    folder = folder_of(work, shape)
    write_records(folder, shape, setting, job.batch * job.steps)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    trainers = {"ours": _ours, "hf": gpu_peers.transformers_and_peft, "trl": gpu_peers.trl}
    seconds = trainers[job.trainer](job, folder, setting, shape)[WARM:]
    step = statistics.median(seconds)
    tokens = real_tokens(shape, setting)
    facts = {
        "tokens_per_second": tokens / step,
        "seconds": step,
        "flops": operations(shape, setting),
        "factors": "fp8" if job.base_dtype == "fp8" else "bf16",
        "peak": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
    }
    return facts | ({"planned": estimate(shape, setting).tensors} if job.trainer == "ours" else {})


def shape_of(tiny: bool) -> Any:
    """LLaVA-1.5-7B's, or one that a CPU trains in a second."""
    from llava_finetune.planning.from_config import read_shape

    whole = read_shape("liuhaotian/llava-v1.5-7b")
    if not tiny:
        return whole
    sizes = {"hidden": 64, "intermediate": 128, "layers": 2, "heads": 2, "kv_heads": 2, "head_size": 32}
    vision = replace(whole.vision, hidden=64, intermediate=128, layers=2, heads=2, image_size=56, patch_size=14)
    return replace(whole, language=replace(whole.language, **sizes, vocabulary=512), vision=vision)


def folder_of(work: Path, shape: Any) -> Path:
    """What the driver reads of a base, without weights."""
    from llava_finetune.pretended_gpu.model_folder import make_folder

    return make_folder(work / "model", shape)


def real_tokens(shape: Any, setting: Any) -> int:
    """Tokens of the records of a step as they would be alone: what sharing and padding are judged by."""
    from llava_finetune.planning.activations import sequence_length

    return int(setting.batch * sequence_length(shape, setting))


def operations(shape: Any, setting: Any) -> int:
    """Operations that a step needs: 4 a frozen weight and 6 an adapter's of every position; the rest is left out."""
    from llava_finetune.planning.activations import batch_positions

    language = shape.language
    frozen = language.layers * language.layer_linear_parameters
    adapters = language.layers * setting.rank * sum(sum(size) for size in language.linears().values())
    return int(batch_positions(shape, setting) * (4 * frozen + 6 * adapters))


def _ours(job: Any, folder: Path, setting: Any, shape: Any) -> list[float]:
    """Seconds of every step of this project's driver."""
    from llava_finetune.config.arguments import parse
    from llava_finetune.pretended_gpu.training import Job, command
    from llava_finetune.training.train import train as run
    from llava_finetune.training.trainer import RunTrainer

    seconds: list[float] = []
    argv = command(Job(str(folder), setting, steps=job.steps), folder)
    real = RunTrainer.training_step

    def timed(trainer: Any, *arguments: Any, **keywords: Any) -> Any:
        synchronize()
        seconds.append(time.perf_counter())
        return real(trainer, *arguments, **keywords)

    said = io.StringIO()
    with random_weights(), mock.patch.object(RunTrainer, "training_step", timed), contextlib.redirect_stdout(said):
        run(parse(argv))
    return [later - earlier for earlier, later in itertools.pairwise(seconds)]


@contextlib.contextmanager
def random_weights() -> Iterator[None]:
    """Inside, transformers' models are made of their config alone, on the GPU, with random weights."""
    from llava_finetune.pretended_gpu import weightless

    def quantize(model: Any, how: Any) -> None:
        import bitsandbytes

        for name, module in list(model.named_modules()):
            if type(module) is torch.nn.Linear and not name.startswith(tuple(how.llm_int8_skip_modules)):
                parent, _, last = name.rpartition(".")
                kept = {"compress_statistics": how.bnb_4bit_use_double_quant, "quant_type": how.bnb_4bit_quant_type}
                layer = bitsandbytes.nn.Linear4bit(
                    module.in_features, module.out_features, False, compute_dtype=how.bnb_4bit_compute_dtype, **kept
                )
                weight = torch.empty(module.weight.shape, dtype=torch.bfloat16).normal_(0, STD)
                layer.weight = bitsandbytes.nn.Params4bit(weight, requires_grad=False, **kept)
                setattr(model.get_submodule(parent), last, layer.to(device()))
        _say_quantized(model, how)

    def make(cls: Any, /, *arguments: Any, **keywords: Any) -> Any:
        with torch.device(device()):
            made = weightless._make(cls, *arguments, **keywords)
        model = made[0] if isinstance(made, tuple) else made
        for parameter in model.parameters():
            if parameter.is_floating_point():
                torch.nn.init.normal_(parameter.data, 0, STD)
        return made

    from transformers import PreTrainedModel

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(PreTrainedModel, "from_pretrained", classmethod(make)))
        stack.enter_context(mock.patch.object(weightless, "quantize", quantize))
        yield


def _say_quantized(model: Any, how: Any) -> None:
    from types import SimpleNamespace

    from transformers.utils.quantization_config import QuantizationMethod

    model.is_quantized = model.is_loaded_in_4bit = True
    model.quantization_method = QuantizationMethod.BITS_AND_BYTES
    model.hf_quantizer = SimpleNamespace(is_trainable=True, is_qat_trainable=False, quantization_config=how)
    model.to(device())
    model.hf_device_map = {"": device()}
