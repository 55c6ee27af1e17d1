#!/usr/bin/env bash
# SmolVLM-500M on captions of a folder of pictures, adapters in the language model and in the vision tower.
#
# What    LoRA r 64, alpha 128, learning rate 1e-4; connector trained at the same rate; pictures whole (64 tokens each,
#         --image_aspect_ratio anyres cuts them into tiles of 1,129 tokens); 3 passes.
# Needs   one 12 GB GPU
#         (llava-finetune plan --model HuggingFaceTB/SmolVLM-500M-Instruct --mode lora --lora_r 64 --gpus 1x12GB)
# Time    1,000 captions: about 10 minutes on one 24 GB card (estimated, not measured)
# Data    python -m data_prep captions --help      (pictures and captions to data/captions)
# Launch  bash scripts/recipes/smolvlm_lora_captions.sh
# Change  MODEL (any SmolVLM or Idefics3), DATA, IMAGES, OUTPUT, NUM_GPUS, DEEPSPEED_CONFIG; any train flag at the end wins
set -euo pipefail

export MODEL="${MODEL:-HuggingFaceTB/SmolVLM-500M-Instruct}"
export DATA="${DATA:-data/captions/train.json}" IMAGES="${IMAGES:-data/captions/images}"
export OUTPUT="${OUTPUT:-runs/smolvlm-lora-captions}"
export GLOBAL_BATCH="${GLOBAL_BATCH:-8}" PER_GPU_BATCH="${PER_GPU_BATCH:-2}"

exec bash "$(dirname "${BASH_SOURCE[0]}")/../finetune_lora.sh" \
  --lora_r 64 --lora_alpha 128 --lora_targets language,vision --learning_rate 1e-4 --mm_projector_lr 1e-4 \
  --image_aspect_ratio pad --num_train_epochs 3 "$@"
