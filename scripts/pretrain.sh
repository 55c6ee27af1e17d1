#!/usr/bin/env bash
# Stage 1: train the projector alone on captions, over a plain language model and a frozen CLIP tower.
#
#   MODEL=lmsys/vicuna-7b-v1.5 DATA=blip_laion_cc_sbu_558k.json IMAGES=images OUTPUT=runs/pretrain \
#     bash scripts/pretrain.sh [FLAGS OF llava-finetune train ...]
#
# Environment: MODEL DATA IMAGES OUTPUT NUM_GPUS HOSTFILE DEEPSPEED_CONFIG GLOBAL_BATCH PER_GPU_BATCH
# (bash scripts/pretrain.sh --help explains them). --dry-run prints the command and changes nothing.
# Then: bash scripts/finetune_lora.sh with MODEL as here and --pretrain_mm_mlp_adapter runs/pretrain/mm_projector.bin
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

launch pretrain \
  --tune_mm_mlp_adapter True --version plain \
  --vision_tower openai/clip-vit-large-patch14-336 --mm_vision_select_layer -2 --mm_projector_type mlp2x_gelu \
  --mm_use_im_start_end False --mm_use_im_patch_token False \
  --learning_rate 1e-3 --weight_decay 0 --warmup_steps 0.03 --lr_scheduler_type cosine \
  --model_max_length 2048 --gradient_checkpointing True --lazy_preprocess True \
  --logging_steps 1 --save_strategy steps --save_steps 2000 --save_total_limit 1 --report_to none "$@"
