#!/usr/bin/env bash
# LLaVA with Llama-2-7B on OK-VQA, evaluated after each epoch.
#
# What    LoRA r 128, alpha 256 on the language model, projector trained; ZeRO-2; 3 passes over 9,009 questions.
# Needs   one 24 GB GPU; where memory ends: DEEPSPEED_CONFIG=zero3_offload (23 GB of host RAM by plan), or --auto
#         (llava-finetune plan --model meta-llama/Llama-2-7b-chat-hf --mode lora --gpus 1x24GB)
# Time    about 1 hour on 8 A100 40 GB, 6 on one (estimated, not measured)
# Model   Llama-2 7B chat with the projector of its stage 1 (PROJECTOR, made by scripts/pretrain.sh with --version
#         plain on a caption set), or MODEL set to a finished LLaVA on Llama-2 and PROJECTOR= (empty)
# Data    python -m data_prep okvqa --help       (questions, annotations and COCO pictures to data/okvqa)
# Launch  bash scripts/recipes/llama2_7b_lora_okvqa.sh
# Change  MODEL, PROJECTOR, DATA, EVAL_DATA, IMAGES, OUTPUT, NUM_GPUS, DEEPSPEED_CONFIG; any train flag at the end wins
set -euo pipefail

export MODEL="${MODEL:-meta-llama/Llama-2-7b-chat-hf}"
export DATA="${DATA:-data/okvqa/train.json}" IMAGES="${IMAGES:-data/okvqa/images}"
export OUTPUT="${OUTPUT:-runs/llama2-7b-lora-okvqa}"
export GLOBAL_BATCH="${GLOBAL_BATCH:-128}" PER_GPU_BATCH="${PER_GPU_BATCH:-4}"
export DEEPSPEED_CONFIG="${DEEPSPEED_CONFIG:-zero2}"
projector=()
if [[ -n "${PROJECTOR=runs/pretrain/mm_projector.bin}" ]]; then
  projector=(--pretrain_mm_mlp_adapter "$PROJECTOR" --vision_tower openai/clip-vit-large-patch14-336
    --mm_vision_select_layer -2 --mm_projector_type mlp2x_gelu --mm_use_im_patch_token False --image_aspect_ratio pad)
fi

exec bash "$(dirname "${BASH_SOURCE[0]}")/../finetune_lora.sh" \
  --version llava_llama_2 ${projector[@]+"${projector[@]}"} --num_train_epochs 3 \
  --eval_data_path "${EVAL_DATA:-data/okvqa/val.json}" --eval_strategy epoch --save_strategy epoch "$@"
