#!/usr/bin/env bash
# LoRA fine-tuning: r 128, alpha 256 on every linear layer of the language model, projector trained, tower frozen.
#
#   MODEL=liuhaotian/llava-v1.5-7b DATA=records.json IMAGES=images OUTPUT=runs/mine \
#     bash scripts/finetune_lora.sh [FLAGS OF llava-finetune train ...]
#
# Environment: MODEL DATA IMAGES OUTPUT NUM_GPUS HOSTFILE DEEPSPEED_CONFIG GLOBAL_BATCH PER_GPU_BATCH
# (bash scripts/finetune_lora.sh --help explains them). --dry-run prints the command and changes nothing;
# --auto picks batch, accumulation and ZeRO stage for the GPUs of this machine.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

launch lora \
  --lora_enable True --lora_r 128 --lora_alpha 256 --mm_projector_lr 2e-5 \
  --learning_rate 2e-4 --weight_decay 0 --warmup_steps 0.03 --lr_scheduler_type cosine \
  --gradient_checkpointing True --lazy_preprocess True \
  --logging_steps 1 --save_strategy steps --save_steps 500 --save_total_limit 2 --report_to none "$@"
