#!/usr/bin/env bash
# LLaVA-1.6-Mistral-7B on a small caption set: pictures cut into views, LoRA in the language model and in the tower.
#
# What    bf16, LoRA r 128, alpha 256 in language model and vision tower, projector trained, learning rate 1e-4,
#         3 epochs, batch 4.
# Needs   one 48 GB GPU at batch 1 x 4 accumulated, or one 80 GB GPU
#         (llava-finetune plan --model liuhaotian/llava-v1.6-mistral-7b --gpus 1x48GB --lora_targets language,vision)
# Time    1,000 captions x 3: about 1 hour on one A100 (estimated, not measured)
# Data    python -m data_prep captions --help       (pictures and captions to data/captions)
# Launch  bash scripts/recipes/llava16_mistral_7b_lora_captions.sh
# Change  MODEL, DATA, IMAGES, OUTPUT, NUM_GPUS, PER_GPU_BATCH from the environment; any train flag at the end wins
set -euo pipefail

export MODEL="${MODEL:-liuhaotian/llava-v1.6-mistral-7b}"
export DATA="${DATA:-data/captions/train.json}" IMAGES="${IMAGES:-data/captions/images}"
export OUTPUT="${OUTPUT:-runs/llava16-mistral-7b-lora-captions}"
export GLOBAL_BATCH="${GLOBAL_BATCH:-4}" PER_GPU_BATCH="${PER_GPU_BATCH:-1}"

exec bash "$(dirname "${BASH_SOURCE[0]}")/../finetune_lora.sh" \
  --version mistral_instruct --lora_targets language,vision --bf16 True \
  --learning_rate 1e-4 --mm_projector_lr 1e-4 --num_train_epochs 3 --model_max_length 4096 "$@"
