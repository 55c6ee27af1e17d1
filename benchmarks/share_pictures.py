"""Training steps whose records share pictures, beside the same records apart: samples/s of processor time, as a ratio.

Random weights in fp32, LoRA, no dropout; `--questions` records of `--text` tokens to each picture of 576 tokens. The
two take turns on one thread, so that a busy machine slows both. Losses of both are printed: they are equal.

    python benchmarks/share_pictures.py
    python benchmarks/share_pictures.py --questions 4 --text 100 --hidden 512 --layers 8

Exit codes: 0 at least 4 times as fast at the default lengths, 1 not, or the losses differ.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WANTED = 4.0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print one line for each way and the ratio."""
    options = parse(argv)
    with tempfile.TemporaryDirectory() as work:
        model, dataset, apart = make(Path(work), options)
        collators = {"apart": apart, "together": replace(apart, shared=True)}
        examples = [dataset[index] for index in range(len(dataset))]
        seconds: dict[str, list[float]] = {name: [] for name in collators}
        losses = {}
        for _ in range(options.repeats):
            for name, collator in collators.items():
                start = time.process_time()
                losses[name] = step(model, collator(examples))
                seconds[name].append(time.process_time() - start)
        for name, collator in collators.items():
            tokens = sum(collator(examples)["layout"].lengths)
            rate = len(examples) / statistics.median(seconds[name])
            print(f"{name}: {tokens} tokens a step, {rate:.2f} samples/s of processor time, loss {losses[name]:.6f}")
    ratio = statistics.median(one / other for one, other in zip(*seconds.values(), strict=True))
    print(f"together is {ratio:.2f} times as fast, of {options.repeats} repeats in turns")
    same = abs(losses["together"] / losses["apart"] - 1) < 1e-5
    return 0 if same and (ratio >= WANTED or (options.questions, options.text) != (8, 50)) else 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=8, help="records of a picture")
    parser.add_argument("--pictures", type=int, default=1, help="pictures of a batch")
    parser.add_argument("--text", type=int, default=50, help="tokens of a record beside its picture")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args(argv)


def make(folder: Path, options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """A small LLaVA with 576 tokens to a picture and LoRA in every layer, its records, and what makes batches."""
    import torch
    import transformers

    from data_prep.records.record import read_records
    from llava_finetune.data.collator import Collator
    from llava_finetune.data.dataset import Encoder, RecordDataset
    from llava_finetune.kernels.fast_lora import speed_up
    from llava_finetune.kernels.unpadded_attention import unpad_attention
    from llava_finetune.model.adapters import Lora, add_adapters
    from llava_finetune.model.building import load_tokenizer
    from llava_finetune.model.modeling import model_class
    from llava_finetune.planning.from_config import read_shape
    from llava_finetune.planning.memory import Setting
    from llava_finetune.pretended_gpu.model_folder import make_folder
    from llava_finetune.pretended_gpu.records import TEMPLATE, write_records

    torch.manual_seed(0)
    whole = read_shape("liuhaotian/llava-v1.5-7b")
    heads = options.hidden // 64
    sizes = {"hidden": options.hidden, "intermediate": 3 * options.hidden, "layers": options.layers}
    language = replace(whole.language, **sizes, heads=heads, kv_heads=heads, head_size=64, vocabulary=1024)
    vision = replace(whole.vision, hidden=64, intermediate=128, heads=4, layers=2)
    make_folder(folder, replace(whole, language=language, vision=vision))
    transformers.CLIPVisionModel(transformers.CLIPVisionConfig.from_pretrained(folder / "clip")).save_pretrained(
        folder / "clip"
    )
    number = options.questions * options.pictures
    setting = Setting(
        "lora", batch=number, text_tokens=options.text, supervised_tokens=6, shared=((number, options.pictures),)
    )
    records = read_records(write_records(folder, whole, setting, number))
    config = transformers.AutoConfig.from_pretrained(folder, attn_implementation="eager")
    model = model_class(config.model_type)(config)
    tower = model.get_vision_tower()
    if not tower.is_loaded:
        tower.load_model()
    model = add_adapters(model, Lora(16, 32, 0.0, "none", "language"))
    speed_up(model)
    unpad_attention(model.config)
    tokenizer = load_tokenizer(str(folder), None, 2048)
    encoder = Encoder(tokenizer, TEMPLATE, tower.image_processor, model.config, folder, tower)
    side = tower.config.image_size
    collator = Collator(tokenizer.pad_token_id, torch.zeros(3, side, side), 2048, unpadded=True)
    return model, RecordDataset(records, encoder), collator


def step(model: Any, batch: dict[str, Any]) -> float:
    """Forward and backward of one batch; its loss."""
    import torch

    torch.set_num_threads(1)
    model.zero_grad()
    loss = model(layout=batch["layout"], images=batch["images"], image_sizes=batch["image_sizes"]).loss
    loss.backward()
    return float(loss)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    import llava.model  # noqa: F401  registers the config classes

    raise SystemExit(main())
