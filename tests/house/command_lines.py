"""Command lines that work in a folder of small inputs (tests/house/garbage.py makes it), one or more of each command.

COMMANDS["data_prep check"].words        # what is typed, without `python -m` or `llava-finetune`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TRAIN = (
    "train --model_name_or_path model --data_path records.json --image_folder pictures --output_dir out --max_steps 1 "
    "--version v1 --use_cpu True --dataloader_num_workers 0 --precision fp32 --per_device_train_batch_size 1 "
    "--save_strategy no --report_to none --lora_enable True --lora_r 2 --gradient_checkpointing False"
)
BEGUN = TRAIN.replace("_dir out", "_dir run").replace("_strategy no", "_steps 1").replace("max_steps 1", "max_steps 2")
MODEL = (
    "config.json", "tokenizer_config.json", "tokenizer.model", "generation_config.json", "model.safetensors",
    "clip/config.json", "clip/preprocessor_config.json", "clip/model.safetensors",
)  # fmt: skip
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "llava_finetune.json", "non_lora_trainables.bin")
HF = (
    "config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json", "tokenizer.json",
    "model.safetensors.index.json", "model-00001-of-00002.safetensors", "chat_template.jinja",
)  # fmt: skip
CHECKPOINT = (
    "checkpoint.json", "trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "position_0.pth",
)  # fmt: skip


@dataclass(frozen=True)
class Command:
    """A command line that works in the world, the files of it that may be spoilt, and flags that take a value."""

    words: str
    files: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


def _in(folder: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}" for name in names)


DATA_PREP: Mapping[str, Command] = {
    "okvqa": Command(
        "okvqa --questions questions.json --annotations annotations.json --image-folder pictures --output out.json "
        "--image-name {}.png",
        ("questions.json", "annotations.json", "pictures/1.png"),
        ("--allow-drops", "--seed", "--suffix", "--image-name", "--copy", "--output"),
    ),
    "vqa": Command(
        "vqa --questions questions.json --annotations annotations.json --image-folder pictures --output out.json "
        "--image-name {}.png --answer sampled",
        ("questions.json", "annotations.json"),
        ("--seed", "--answer", "--check"),
    ),
    "captions": Command(
        "captions captions.csv --image-folder pictures --output out.json",
        ("captions.csv", "pictures/1.png"),
        ("--question", "--questions", "--seed", "--encoding", "--image-column", "--max-unpacked", "--sheet"),
    ),
    "captions-template": Command(
        "captions-template pictures --train out.csv", ("pictures/1.png",), ("--test-share", "--seed", "--test")
    ),
    "table csv": Command(
        "table table.csv --image-folder pictures --output out.json",
        ("table.csv",),
        ("--question-column", "--encoding", "--suffix", "--allow-drops", "--max-unpacked", "--copy"),
    ),
    "table jsonl": Command("table table.jsonl --image-folder pictures --output out.json", ("table.jsonl",)),
    "table xlsx": Command("table table.xlsx --image-folder pictures --output out.json", ("table.xlsx",), ("--sheet",)),
    "table parquet": Command("table table.parquet --image-folder pictures --output out.json", ("table.parquet",)),
    "hf": Command(
        "hf hub --output out.json --image-folder made",
        ("hub/train.jsonl", "hub/1.png"),
        ("--split", "--config", "--limit", "--sample", "--seed", "--image-column", "--suffix", "--revision"),
    ),
    "hf parquet": Command(
        "hf table.parquet --output out.json --image-folder pictures", ("table.parquet",), ("--limit",)
    ),
    "heic": Command("heic pictures --output-dir made", ("pictures/1.png",), ("--prefix", "--quality", "--max-pixels")),
    "generate": Command(
        "generate --captions coco.json --boxes boxes.json --image-folder pictures --output out.json "
        "--endpoint http://127.0.0.1:9/v1 --model x",
        ("coco.json", "boxes.json"),
        ("--limit", "--seed", "--temperature", "--max-tokens", "--concurrency", "--endpoint", "--prompts"),
    ),
    "split": Command(
        "split records.json --parts train=0.5 test=0.5 --output-dir made --image-folder pictures",
        ("records.json", "pictures/1.png"),
        ("--parts", "--seed", "--stratify"),
    ),
    "mix": Command(
        "mix records.json=1 more.jsonl=0.5 --output out.json", ("records.json", "more.jsonl"), ("--seed", "--prefix")
    ),
    "check": Command(
        "check records.json --image-folder pictures --workers 1 --cache-dir cache",
        ("records.json", "pictures/1.png"),
        ("--test", "--max-length", "--workers", "--max-pixels", "--fix", "--allow-drops", "--html"),
    ),
    "check model": Command(
        "check records.json --image-folder pictures --workers 1 --cache-dir cache --model model",
        _in("model", MODEL),
        ("--conversation", "--max-length"),
    ),
    "show": Command(
        "show records.json --image-folder pictures --model model --html out.html",
        ("records.json", "pictures/1.png", "model/tokenizer_config.json"),
        ("--count", "--seed", "--records", "--conversation", "--max-length", "--max-pixels"),
    ),
    "push": Command("push records.json me/mine --dry-run made --images pictures", ("records.json",), ("--images",)),
}
LLAVA: Mapping[str, Command] = {
    "train": Command(
        TRAIN,
        ("records.json", "pictures/1.png", *_in("model", MODEL)),
        (
            "--learning_rate", "--lora_r", "--lora_dropout", "--lora_alpha", "--per_device_train_batch_size",
            "--max_steps", "--num_train_epochs", "--warmup_steps", "--seed", "--save_steps", "--logging_steps",
            "--version", "--replay", "--eval_data_path", "--deepspeed", "--resume", "--lora_targets", "--precision",
            "--model_max_length", "--loss_chunk", "--mm_projector_lr", "--bits", "--cache_gb", "--weight_decay",
            "--optim", "--lr_scheduler_type", "--mm_vision_select_layer", "--max_grad_norm", "--init_lora_weights",
        ),
    ),
    "train resumed": Command(
        f"{BEGUN} --resume auto",
        (*_in("run/checkpoint-1", (*CHECKPOINT, *ADAPTER)), "run/log.jsonl", "run/run.json"),
        ("--resume",),
    ),
    "evaluate": Command(
        "evaluate --predictions predictions.jsonl --output made",
        ("predictions.jsonl",),
        ("--limit", "--sample", "--train_data", "--name", "--upload"),
    ),
    "evaluate model": Command(
        "evaluate --model model --data records.json --images pictures --output made --max_new_tokens 2 --limit 1 "
        "--device cpu",
        ("records.json", "pictures/0.png"),
        ("--limit", "--sample", "--batch_size", "--max_new_tokens", "--dtype", "--num_processes", "--max_images"),
    ),
    "merge": Command(
        "merge adapter made --num-records 1",
        _in("adapter", (*ADAPTER, "config.json")),
        ("--num-records", "--answers", "--records", "--base"),
    ),
    "import": Command(
        "import hf made",
        _in("hf", HF),
        ("--conversation", "--dtype", "--image-aspect-ratio"),
    ),
    "export": Command("export model made", _in("model", MODEL), ("--conversation", "--dtype", "--type")),
    "export gguf": Command("export model made --format gguf", ("model/tokenizer.model",), ("--type",)),
    "chat": Command(
        "chat model --device cpu --image pictures/1.png --once what? --max-new-tokens 2",
        ("pictures/1.png", *_in("model", MODEL)),
        ("--temperature", "--top-p", "--max-new-tokens", "--seed", "--max-pixels", "--dtype", "--system", "--image",
         "--bits"),
    ),
    "serve": Command(
        "serve model --device cpu --no-page --no-compare --port 0",
        ("model/config.json", "model/tokenizer_config.json"),
        ("--port", "--host", "--max-batch", "--max-queue", "--max-picture-mb", "--max-pictures", "--grace",
         "--api-key-file", "--allow-remote", "--name", "--user", "--records"),
    ),
    "report": Command(
        "report run --output out.html", _in("run", ("log.jsonl", "run.json", "result.json")), ("--images",)
    ),
    "push": Command("push model me/mine --dry-run", ("model/config.json",)),
    "plan": Command(
        "plan --model model --mode lora --gpus 1x24GB --data records.json",
        ("model/config.json", "records.json"),
        ("--gpus", "--data", "--global-batch", "--lora_r", "--model_max_length", "--mode", "--vision_tower"),
    ),
    "doctor": Command(
        "doctor --model model --device cpu", _in("model", ("config.json", "model.safetensors")), ("--dtype",)
    ),
    "base": Command(
        "base language-model --output made --wheel table.xlsx", ("table.xlsx",), ("--wheel", "--output")
    ),
}  # fmt: skip
COMMANDS = {**{f"data_prep {name}": one for name, one in DATA_PREP.items()}, **LLAVA}
