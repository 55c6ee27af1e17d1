#!/usr/bin/env bash
# IDEFICS-9B in 4 bit on captions of a folder of pictures, as the chess walk-through tunes it.
#
# What    QLoRA: nf4 base, r 64, alpha 128 on self-attention, cross-attention, feed-forward layers and the perceiver;
#         learning rate 1e-4, 3 passes. A picture takes 3 tokens: the rest goes through cross-attention.
# Needs   one 24 GB GPU
#         (llava-finetune plan --model HuggingFaceM4/idefics-9b-instruct --mode qlora --lora_r 64 --gpus 1x24GB)
# Time    1,000 captions: about 40 minutes on one 24 GB card (estimated, not measured)
# Data    python -m data_prep captions --help      (pictures and captions to data/captions)
# Launch  bash scripts/recipes/idefics_9b_qlora_captions.sh      (80B: MODEL=HuggingFaceM4/idefics-80b-instruct)
# Change  MODEL, DATA, IMAGES, OUTPUT, NUM_GPUS, DEEPSPEED_CONFIG; any train flag at the end wins
set -euo pipefail

export MODEL="${MODEL:-HuggingFaceM4/idefics-9b-instruct}"
export DATA="${DATA:-data/captions/train.json}" IMAGES="${IMAGES:-data/captions/images}"
export OUTPUT="${OUTPUT:-runs/idefics-9b-qlora-captions}"
export GLOBAL_BATCH="${GLOBAL_BATCH:-8}" PER_GPU_BATCH="${PER_GPU_BATCH:-2}"

exec bash "$(dirname "${BASH_SOURCE[0]}")/../finetune_qlora.sh" \
  --lora_r 64 --lora_alpha 128 --lora_targets language,projector --learning_rate 1e-4 \
  --mm_projector_lr 1e-4 --num_train_epochs 3 "$@"
