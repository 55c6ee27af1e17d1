#!/usr/bin/env bash
# A small LLaVA (TinyLlama 1.1B) in 4 bit on the same set: 500 steps, for a first run on any GPU.
#
# What    QLoRA: nf4 base, r 64, alpha 16, learning rate 2e-5, batch 8, 500 steps.
# Needs   one 8 GB GPU (llava-finetune plan --model bczhou/tiny-llava-v1-hf --mode qlora --lora_r 64 --gpus 1x8GB)
# Time    500 steps of 8: about 20 minutes on a T4 (estimated, not measured)
# Model   llava-finetune import bczhou/tiny-llava-v1-hf models/tiny-llava       (llava-hf layout to upstream's)
# Data    python -m data_prep hf HuggingFaceH4/llava-instruct-mix-vsft --limit 10000 --output data/instruct-mix/records.json
# Launch  bash scripts/recipes/small_llava_qlora_instruct_mix.sh
# Change  MODEL, DATA, IMAGES, OUTPUT, NUM_GPUS from the environment; any train flag after the script's name wins:
#         bash scripts/recipes/small_llava_qlora_instruct_mix.sh --max_steps 2000
set -euo pipefail

export MODEL="${MODEL:-models/tiny-llava}"
export DATA="${DATA:-data/instruct-mix/records.json}" IMAGES="${IMAGES:-data/instruct-mix/images}"
export OUTPUT="${OUTPUT:-runs/small-llava-qlora-instruct-mix}"
export GLOBAL_BATCH="${GLOBAL_BATCH:-8}" PER_GPU_BATCH="${PER_GPU_BATCH:-8}"

exec bash "$(dirname "${BASH_SOURCE[0]}")/../finetune_qlora.sh" \
  --lora_r 64 --lora_alpha 16 --learning_rate 2e-5 --max_steps 500 "$@"
