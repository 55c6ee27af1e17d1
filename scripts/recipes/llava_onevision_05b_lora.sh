#!/usr/bin/env bash
# LLaVA-OneVision 0.5B on your own records: LoRA on its Qwen2, the connector trained beside it.
#
# What    LoRA r 64, alpha 128, learning rate 2e-4, connector 2e-5; pictures in views as the base cuts them; 2 passes.
# Needs   one 24 GB GPU: a large picture takes up to 7,452 tokens
#         (llava-finetune plan --model llava-hf/llava-onevision-qwen2-0.5b-ov-hf --mode lora --lora_r 64 --gpus 1x24GB)
# Time    1,000 records: about 30 minutes on one 24 GB card (estimated, not measured)
# Data    python -m data_prep table --help         (any table of pictures, questions and answers to data/records)
# Launch  bash scripts/recipes/llava_onevision_05b_lora.sh
# Change  MODEL, DATA, IMAGES, OUTPUT, NUM_GPUS, DEEPSPEED_CONFIG; any train flag at the end wins
set -euo pipefail

export MODEL="${MODEL:-llava-hf/llava-onevision-qwen2-0.5b-ov-hf}"
export DATA="${DATA:-data/records/train.json}" IMAGES="${IMAGES:-data/records/images}"
export OUTPUT="${OUTPUT:-runs/llava-onevision-05b-lora}"
export GLOBAL_BATCH="${GLOBAL_BATCH:-16}" PER_GPU_BATCH="${PER_GPU_BATCH:-1}"

exec bash "$(dirname "${BASH_SOURCE[0]}")/../finetune_lora.sh" \
  --lora_r 64 --lora_alpha 128 --learning_rate 2e-4 --mm_projector_lr 2e-5 --num_train_epochs 2 "$@"
