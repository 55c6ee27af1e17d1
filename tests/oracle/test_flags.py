"""The flags of upstream's published launch scripts, as users have them in their notes: all accepted, same meaning.

The sets are upstream's scripts/*.sh and scripts/v1_5/*.sh of v1.2.2.post1, with this test's paths in them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SHARED = """--bf16 True --num_train_epochs 1 --per_device_eval_batch_size 4 --evaluation_strategy no
--save_strategy steps --save_total_limit 1 --weight_decay 0. --warmup_ratio 0.03 --lr_scheduler_type cosine
--logging_steps 1 --tf32 True --model_max_length 2048 --gradient_checkpointing True --dataloader_num_workers 4
--lazy_preprocess True"""
TOWER = "--vision_tower openai/clip-vit-large-patch14"
TOKENS = "--mm_vision_select_layer -2 --mm_use_im_start_end False --mm_use_im_patch_token False"
LORA = "--lora_enable True --lora_r 128 --lora_alpha 256 --mm_projector_lr 2e-5"
V1_5 = f"{TOWER}-336 --mm_projector_type mlp2x_gelu {TOKENS} --image_aspect_ratio pad --group_by_modality_length True"
PROJECTOR = "--pretrain_mm_mlp_adapter ./checkpoints/llava-v1.5-13b-pretrain/mm_projector.bin"

PUBLISHED = {
    "pretrain": f"--version plain {TOWER} --tune_mm_mlp_adapter True {TOKENS} --per_device_train_batch_size 16 "
    "--gradient_accumulation_steps 1 --save_steps 24000 --learning_rate 2e-3 --report_to wandb --deepspeed zero2.json",
    "finetune": f"--version v1 {TOWER} {PROJECTOR} {TOKENS} --per_device_train_batch_size 16 "
    "--gradient_accumulation_steps 1 --save_steps 50000 --learning_rate 2e-5 --report_to wandb --deepspeed zero3.json",
    "finetune_full_schedule": f"--version v1 {TOWER} {PROJECTOR} {TOKENS} --num_train_epochs 3 "
    "--per_device_train_batch_size 16 --gradient_accumulation_steps 1 --save_steps 50000 --learning_rate 2e-5 "
    "--report_to wandb --deepspeed zero2.json",
    "finetune_lora": f"--lora_enable True --version v1 {TOWER} {PROJECTOR} {TOKENS} --per_device_train_batch_size 16 "
    "--gradient_accumulation_steps 1 --save_steps 50000 --learning_rate 2e-5 --report_to wandb --deepspeed zero2.json",
    "finetune_qlora": f"--lora_enable True --bits 4 --version v1 {TOWER} {PROJECTOR} {TOKENS} "
    "--per_device_train_batch_size 16 --gradient_accumulation_steps 1 --save_steps 50000 --learning_rate 2e-5 "
    "--report_to wandb --deepspeed zero2.json",
    "finetune_sqa": f"--version v1 {TOWER} {PROJECTOR} --mm_vision_select_layer -2 --mm_use_im_start_end False "
    "--mm_use_im_patch_token False --num_train_epochs 12 --per_device_train_batch_size 16 "
    "--gradient_accumulation_steps 1 --save_steps 50000 --learning_rate 2e-5 --report_to wandb --deepspeed zero3.json",
    "v1_5/pretrain": f"--version plain {V1_5} --tune_mm_mlp_adapter True --per_device_train_batch_size 32 "
    "--gradient_accumulation_steps 1 --save_steps 24000 --learning_rate 1e-3 --report_to wandb --deepspeed zero2.json",
    "v1_5/finetune": f"--version v1 {V1_5} {PROJECTOR} --per_device_train_batch_size 16 "
    "--gradient_accumulation_steps 1 --save_steps 50000 --learning_rate 2e-5 --report_to wandb --deepspeed zero3.json",
    "v1_5/finetune_lora": f"{LORA} --version v1 {V1_5} {PROJECTOR} --per_device_train_batch_size 16 "
    "--gradient_accumulation_steps 1 --save_steps 50000 --learning_rate 2e-4 --report_to wandb --deepspeed zero3.json",
    "v1_5/finetune_task": f"--version v1 {V1_5} --per_device_train_batch_size 16 --gradient_accumulation_steps 1 "
    "--save_steps 50000 --learning_rate 2e-5 --report_to wandb --deepspeed zero3.json",
    "v1_5/finetune_task_lora": f"{LORA} --version v1 {V1_5} --per_device_train_batch_size 16 "
    "--gradient_accumulation_steps 1 --save_steps 50000 --learning_rate 2e-4 --report_to wandb --deepspeed zero3.json",
}
#: Flags whose name or form changed in transformers, with what they mean today.
TRANSLATED = {"evaluation_strategy": ("eval_strategy", "no"), "warmup_ratio": ("warmup_steps", 0.03)}


@pytest.fixture(scope="module")
def parsed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Every published set as our driver parses it."""
    folder = tmp_path_factory.mktemp("flags")
    places = f"--model_name_or_path base --data_path records.json --image_folder images --output_dir {folder}/out "
    sets = {
        name: (places + SHARED + " " + flags)
        .replace("zero2.json", str(root / "deepspeed_configs" / "zero2.json"))
        .replace("zero3.json", str(root / "deepspeed_configs" / "zero3.json"))
        .split()
        for name, flags in PUBLISHED.items()
    }
    (folder / "sets.json").write_text(json.dumps(sets))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "parse_flags.py"), str(folder / "sets.json"), str(folder / "out")],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads((folder / "out").read_text()))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_scripts_flags_mean_what_they_meant(name: str, parsed: dict[str, dict[str, Any]]) -> None:
    got = parsed[name]
    words = (SHARED + " " + PUBLISHED[name]).split()
    compared = 0
    for flag, value in zip(words[::2], words[1::2], strict=True):
        key = flag.removeprefix("--")
        key, meaning = TRANSLATED.get(key, (key, value))
        if key in ("bf16", "tf32", "deepspeed", "report_to", "num_train_epochs"):
            continue  # below, or given twice
        expected: Any = meaning
        if isinstance(meaning, str):
            expected = {"True": True, "False": False}.get(meaning, meaning)
            if isinstance(expected, str) and expected.replace("e-", "").replace("-", "").replace(".", "").isdigit():
                expected = float(expected)
        assert got[key] == expected, f"{flag} {value}: {got[key]!r}"
        compared += 1
    assert compared > 15
    assert got["precision"] == "bf16"
    assert got["lora_r"] == (128 if "lora_r" in PUBLISHED[name] else 64)
    assert str(got["deepspeed"]).endswith("zero3.json" if "zero3" in PUBLISHED[name] else "zero2.json")


def test_what_was_renamed_is_said(parsed: dict[str, dict[str, Any]]) -> None:
    notices = "\n".join(parsed["v1_5/finetune_lora"]["notices"])
    assert "--evaluation_strategy is now --eval_strategy: no" in notices
    assert "--warmup_ratio is now --warmup_steps with a share below 1: 0.03" in notices
    assert "--tf32 dropped: this machine has no TF32 units" in notices
