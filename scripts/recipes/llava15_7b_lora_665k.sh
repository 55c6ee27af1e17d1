#!/usr/bin/env bash
# Upstream's own LoRA recipe of LLaVA-1.5: stage 2 on llava_v1_5_mix665k over Vicuna, from the stage-1 projector.
#
# What    LoRA r 128, alpha 256, learning rate 2e-4, projector 2e-5, 128 records a step, one pass, pictures padded,
#         batches of one kind and like length: the values of upstream's v1.5 script, under today's flag names.
# Needs   8 GPUs of 40 GB (llava-finetune plan --model lmsys/vicuna-7b-v1.5 --mode lora --gpus 8x40GB); any other
#         number with the same 128 records a step (--auto picks the batch)
# Time    about 10 hours on 8 A100 40 GB (estimated, not measured)
# Data    llava_v1_5_mix665k.json with COCO, GQA, OCR-VQA, TextVQA and Visual Genome pictures below data/llava-665k
# Launch  bash scripts/recipes/llava15_7b_lora_665k.sh
# Change  MODEL, PROJECTOR, DATA, IMAGES, OUTPUT, NUM_GPUS, DEEPSPEED_CONFIG from the environment; flags at the end win
set -euo pipefail

export MODEL="${MODEL:-lmsys/vicuna-7b-v1.5}"
export DATA="${DATA:-data/llava-665k/llava_v1_5_mix665k.json}" IMAGES="${IMAGES:-data/llava-665k}"
export OUTPUT="${OUTPUT:-runs/llava15-7b-lora-665k}"
export GLOBAL_BATCH="${GLOBAL_BATCH:-128}" PER_GPU_BATCH="${PER_GPU_BATCH:-16}"
export DEEPSPEED_CONFIG="${DEEPSPEED_CONFIG:-zero3}"

exec bash "$(dirname "${BASH_SOURCE[0]}")/../finetune_lora.sh" \
  --version v1 --vision_tower openai/clip-vit-large-patch14-336 \
  --pretrain_mm_mlp_adapter "${PROJECTOR:-runs/pretrain/mm_projector.bin}" --mm_projector_type mlp2x_gelu \
  --mm_vision_select_layer -2 --mm_use_im_start_end False --mm_use_im_patch_token False \
  --image_aspect_ratio pad --group_by_modality_length True --model_max_length 2048 --num_train_epochs 1 --tf32 True "$@"
