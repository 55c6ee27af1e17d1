#!/usr/bin/env bash
# LLaVA-1.6-34B (Yi, ChatML) on a small caption set: pictures cut into views, LoRA in the language model and the tower.
#
# What    bf16, LoRA r 128, alpha 256 in language model and vision tower, projector trained, learning rate 1e-4,
#         3 epochs, batch 4; ZeRO-3, because 69 GB of weights fit no single GPU beside anything else.
# Needs   four 80 GB GPUs
#         (llava-finetune plan --model liuhaotian/llava-v1.6-34b --gpus 4x80GB --lora_targets language,vision);
#         one 48 GB GPU with scripts/finetune_qlora.sh and the flags below
# Time    1,000 captions x 3: about 2 hours on four A100 80 GB (estimated, not measured)
# Data    python -m data_prep captions --help       (pictures and captions to data/captions)
# Launch  bash scripts/recipes/llava16_34b_lora_captions.sh
# Change  MODEL, DATA, IMAGES, OUTPUT, NUM_GPUS, PER_GPU_BATCH from the environment; any train flag at the end wins
set -euo pipefail

export MODEL="${MODEL:-liuhaotian/llava-v1.6-34b}"
export DATA="${DATA:-data/captions/train.json}" IMAGES="${IMAGES:-data/captions/images}"
export OUTPUT="${OUTPUT:-runs/llava16-34b-lora-captions}"
export GLOBAL_BATCH="${GLOBAL_BATCH:-4}" PER_GPU_BATCH="${PER_GPU_BATCH:-1}"
export DEEPSPEED_CONFIG="${DEEPSPEED_CONFIG:-zero3}"

exec bash "$(dirname "${BASH_SOURCE[0]}")/../finetune_lora.sh" \
  --version chatml_direct --lora_targets language,vision --bf16 True \
  --learning_rate 1e-4 --mm_projector_lr 1e-4 --num_train_epochs 3 --model_max_length 4096 "$@"
