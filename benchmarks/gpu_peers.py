"""The trainers that benchmarks/gpu.py holds ours beside.

transformers + peft is the loop that its users write: LoRA on the same layers of LlavaForConditionalGeneration,
autocast, fused AdamW; TRL is its SFTTrainer over that model. A processor pads its batches; all records here have one
length, so that nothing is padded and their rates are the best that they can show.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_card import device, synchronize


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
    """One batch as a processor makes it: the picture's tokens stand in the text, and no row needs padding."""
    from llava_finetune.planning.activations import sequence_length

    language, vision = shape.language, shape.vision
    length = sequence_length(shape, setting)
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


def transformers_and_peft(job: Any, folder: Path, setting: Any, shape: Any) -> list[float]:
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


def trl(job: Any, folder: Path, setting: Any, shape: Any) -> list[float]:
    """Seconds of every step of TRL's SFTTrainer over the same model and batch."""
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    seconds: list[float] = []

    class Timer(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            synchronize()
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            synchronize()
            seconds.append(time.perf_counter() - self.start)

    row = {name: value[0] for name, value in peer_batch(shape, replace(setting, batch=1)).items()}
    arguments = SFTConfig(
        output_dir=str(folder / "trl"), max_steps=job.steps, per_device_train_batch_size=setting.batch, bf16=True,
        gradient_checkpointing=False, report_to="none", save_strategy="no", remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True}, disable_tqdm=True, use_cpu=device().type == "cpu",
    )  # fmt: skip
    trainer = SFTTrainer(
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
