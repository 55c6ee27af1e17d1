"""The rows of benchmarks/gpu.py: trainings of random weights, products alone, and kernels beside plain arithmetic.

Ours is the whole driver from its command line. transformers + peft is the loop that its users write: LoRA on the same
layers of LlavaForConditionalGeneration, padded batches, autocast, fused AdamW; TRL is its SFTTrainer over that model.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

WARM = 2
"""Steps before those that are measured."""
STD = 0.02


def device() -> torch.device:
    """The GPU, or the CPU of a rehearsal."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronize() -> None:
    """Wait for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# ---- trainings ----


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
    trainers = {"ours": _ours, "hf": _transformers, "trl": _trl}
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


def peer_model(shape: Any, setting: Any) -> Any:
    """transformers' own LLaVA of the same shape with peft's adapters, and how it goes forward."""
    import peft
    import transformers

    language, vision = shape.language, shape.vision
    text = transformers.LlamaConfig(
        hidden_size=language.hidden, intermediate_size=language.intermediate, num_hidden_layers=language.layers,
        num_attention_heads=language.heads, num_key_value_heads=language.kv_heads, vocab_size=language.vocabulary,
    )  # fmt: skip
    tower = transformers.CLIPVisionConfig(
        hidden_size=vision.hidden, intermediate_size=vision.intermediate, num_hidden_layers=vision.layers,
        num_attention_heads=vision.heads, image_size=vision.image_size, patch_size=vision.patch_size,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=tower, text_config=text, image_token_index=language.vocabulary - 1, attn_implementation="sdpa"
    )
    with torch.device(device()):
        model = transformers.LlavaForConditionalGeneration(config).to(torch.bfloat16)
    targets = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
    lora = peft.LoraConfig(
        r=setting.rank, lora_alpha=2 * setting.rank, lora_dropout=setting.dropout, target_modules=targets
    )
    return peft.get_peft_model(model, lora)


def peer_batch(shape: Any, setting: Any) -> dict[str, Any]:
    """One batch as a processor makes it: the picture's tokens stand in the text."""
    language, vision = shape.language, shape.vision
    length = real_tokens(shape, setting) // setting.batch
    ids = torch.randint(3, language.vocabulary - 2, (setting.batch, length))
    ids[:, 4 : 4 + shape.image_tokens] = language.vocabulary - 1
    labels = ids.clone()
    labels[:, : length - setting.supervised_tokens] = -100
    pixels = torch.randn(setting.batch, 3, vision.image_size, vision.image_size, dtype=torch.bfloat16)
    return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def peer_step(shape: Any, setting: Any) -> Callable[[], Iterator[str]]:
    """A step of a plain loop over transformers' model with peft, to be run through; it names each stage it enters."""
    model = peer_model(shape, setting)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, fused=True)
    batch = {name: value.to(device()) for name, value in peer_batch(shape, setting).items()}

    def step() -> Iterator[str]:
        yield "forward"
        with torch.autocast(device().type, torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        yield "optimizer"
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield "log"

    return step


def _transformers(job: Any, folder: Path, setting: Any, shape: Any) -> list[float]:
    """Seconds of every step of transformers + peft."""
    step = peer_step(shape, setting)
    seconds = []
    for _ in range(job.steps):
        synchronize()
        start = time.perf_counter()
        for _ in step():
            pass
        synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds


def _trl(job: Any, folder: Path, setting: Any, shape: Any) -> list[float]:
    """Seconds of every step of TRL's SFTTrainer over the same model and batch."""
    import trl
    from transformers import AutoTokenizer, TrainerCallback

    seconds: list[float] = []

    class Timer(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            synchronize()
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            synchronize()
            seconds.append(time.perf_counter() - self.start)

    row = {name: value[0] for name, value in peer_batch(shape, replace(setting, batch=1)).items()}
    arguments = trl.SFTConfig(
        output_dir=str(folder / "trl"), max_steps=job.steps, per_device_train_batch_size=setting.batch, bf16=True,
        gradient_checkpointing=False, report_to="none", save_strategy="no", remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True}, disable_tqdm=True, use_cpu=device().type == "cpu",
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        model=peer_model(shape, setting),
        args=arguments,
        train_dataset=[row] * (setting.batch * job.steps),
        data_collator=lambda rows: {name: torch.stack([one[name] for one in rows]) for name in rows[0]},
        processing_class=AutoTokenizer.from_pretrained(folder),
        callbacks=[Timer()],
    )
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
    return seconds


# ---- products alone ----


def peaks(tiny: bool) -> dict[str, Any]:
    """TFLOP/s of a product as wide as a 7B's, in bf16 and e4m3, and bytes a second of a copy."""
    rows, inner, outer = (64, 64, 128) if tiny else (4096, 4096, 11008)
    x = torch.randn(rows, inner, device=device(), dtype=torch.bfloat16)
    weight = torch.randn(outer, inner, device=device(), dtype=torch.bfloat16)
    work = 2 * rows * inner * outer / 1e12
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU (a rehearsal)"
    found: dict[str, Any] = {"device": name, "bf16_tflops": work / _seconds(lambda: x @ weight.T)}
    with contextlib.suppress(RuntimeError):  # a card without e4m3 units
        one, scale = x.to(torch.float8_e4m3fn), torch.ones(rows, 1, device=device())
        other, ones = weight.to(torch.float8_e4m3fn).T, torch.ones(1, outer, device=device())
        found["fp8_tflops"] = work / _seconds(
            lambda: torch._scaled_mm(one, other, scale, ones, out_dtype=torch.bfloat16)
        )
    found["copy_tb"] = 2 * weight.nbytes / 1e12 / _seconds(weight.clone)
    return found


def _seconds(call: Any, repeats: int = 20) -> float:
    call()
    synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronize()
    return (time.perf_counter() - start) / repeats


# ---- kernels beside plain arithmetic ----


def numbers() -> dict[str, Any]:
    """Relative errors of what only a GPU runs: attention over spans, products in e4m3, LoRA's dropout in one kernel."""
    return {"attention": _attention_error(), "fp8 product": _fp8_error(), "dropout": _dropout_error()}


def _attention_error() -> float:
    """A beginning with two branches and a sample alone, 16 bit, beside fp32 by hand."""
    from llava_finetune.kernels.unpadded_attention import Samples, _attention

    spans = [[40, 9, 23], [31]]
    total = sum(map(sum, spans))
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, total, 64, generator=draw) for _ in range(3))
    asked = torch.tensor([0, 40, 49, 72, 103], dtype=torch.int32, device=device())
    seen = torch.tensor([0, 40, 89, 152, 183], dtype=torch.int32, device=device())
    found = []
    for name, where, dtype in (("eager", "cpu", torch.float32), ("sdpa", device(), torch.bfloat16)):
        samples = Samples(spans, asked.to(where), seen.to(where))
        parts = [part.to(where, dtype) for part in (query, key, value)]
        found.append(_attention(name)(None, *parts, None, samples=samples)[0].float().cpu())
    return _apart(found[1], found[0])


def _fp8_error() -> float:
    from llava_finetune.kernels import fp8

    x, weight = torch.randn(64, 256), torch.randn(128, 256)
    kept, scales = (one.to(device()) for one in fp8.packed(weight))
    got = fp8.product(x.to(device(), torch.bfloat16), kept, scales, None)
    return _apart(got.float().cpu(), x @ weight.T)


def _dropout_error() -> float:
    """How far the mean of what dropout keeps lies from the mean of everything."""
    from llava_finetune.kernels.fast_lora import dropped

    kept, _, factor = dropped(torch.ones(1024, 1024, device=device()), 0.05)
    return abs(float((kept * factor).mean()) - 1)


def _apart(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm())
