#!/usr/bin/env bash
# LLaVA-1.5-7B in 4 bit on 10,000 conversations of HuggingFaceH4/llava-instruct-mix-vsft.
#
# What    QLoRA: nf4 base, r 64, alpha 16, dropout 0.1 on attention and feed-forward of the language model;
#         learning rate 1.4e-5, one pass, 8 records a step.
# Needs   one 16 GB GPU (llava-finetune plan --model liuhaotian/llava-v1.5-7b --mode qlora --lora_r 64 --gpus 1x16GB)
# Time    10,000 records: about 3 hours on a T4, under 1 on a 24 GB card (estimated, not measured)
# Data    python -m data_prep hf HuggingFaceH4/llava-instruct-mix-vsft --limit 10000 --output data/instruct-mix/records.json
# Launch  bash scripts/recipes/llava15_7b_qlora_instruct_mix.sh
# Change  MODEL, DATA, IMAGES, OUTPUT, NUM_GPUS from the environment; any train flag after the script's name wins:
#         bash scripts/recipes/llava15_7b_qlora_instruct_mix.sh --learning_rate 1e-4 --num_train_epochs 2
set -euo pipefail

export MODEL="${MODEL:-liuhaotian/llava-v1.5-7b}"
export DATA="${DATA:-data/instruct-mix/records.json}" IMAGES="${IMAGES:-data/instruct-mix/images}"
export OUTPUT="${OUTPUT:-runs/llava15-7b-qlora-instruct-mix}"
export GLOBAL_BATCH="${GLOBAL_BATCH:-8}" PER_GPU_BATCH="${PER_GPU_BATCH:-2}"

exec bash "$(dirname "${BASH_SOURCE[0]}")/../finetune_qlora.sh" \
  --lora_r 64 --lora_alpha 16 --lora_dropout 0.1 --lora_targets language \
  --learning_rate 1.4e-5 --num_train_epochs 1 "$@"
