#!/usr/bin/env bash
# A LLaVA of your own on Qwen3: stage 1 makes the projector from captions, stage 2 tunes by LoRA on questions.
#
# What    SigLIP's features (729 tokens a picture) through a new projector into Qwen3, by Qwen3's own chat template with
#         thoughts off; stage 1 at 1e-3 on captions, then LoRA r 128 at 2e-4 and the projector at 2e-5
# Needs   one GPU of 8 GB: by calculation 4.7 GB in stage 1 and 5.2 GB in stage 2
#         (llava-finetune plan --model Qwen/Qwen3-0.6B --vision_tower google/siglip-so400m-patch14-384 --mode lora --gpus 1x8GB)
# Time    not measured
# Data    CAPTIONS for stage 1, as LLaVA's blip_laion_cc_sbu_558k.json; DATA with questions and answers for stage 2
# Launch  bash scripts/recipes/llava_qwen3_pretrain_and_lora.sh
# Change  MODEL, TOWER, CAPTIONS, CAPTION_IMAGES, DATA, IMAGES, OUTPUT, NUM_GPUS from the environment; flags at the end win
set -euo pipefail

export MODEL="${MODEL:-Qwen/Qwen3-0.6B}"
export IMAGES="${IMAGES:-data/okvqa/images}"
scripts="$(dirname "${BASH_SOURCE[0]}")/.."
questions="${DATA:-data/okvqa/train.json}" output="${OUTPUT:-runs/llava-qwen3}"
picture=(--vision_tower "${TOWER:-google/siglip-so400m-patch14-384}" --mm_projector_type mlp2x_gelu
  --mm_vision_select_layer -2 --mm_use_im_patch_token False --image_aspect_ratio pad)

DATA="${CAPTIONS:-data/pretrain/blip_laion_cc_sbu_558k.json}" IMAGES="${CAPTION_IMAGES:-data/pretrain/images}" \
  OUTPUT="$output-stage1" bash "$scripts/pretrain.sh" "${picture[@]}" "$@"

DATA="$questions" OUTPUT="$output" exec bash "$scripts/finetune_lora.sh" "${picture[@]}" \
  --version chat_template --pretrain_mm_mlp_adapter "$output-stage1/mm_projector.bin" "$@"
