#!/usr/bin/env bash
# Full fine-tuning: language model and projector trained, tower frozen; ZeRO-3 unless DEEPSPEED_CONFIG says otherwise.
#
#   MODEL=liuhaotian/llava-v1.5-7b DATA=records.json IMAGES=images OUTPUT=runs/mine \
#     bash scripts/finetune_full.sh [FLAGS OF llava-finetune train ...]
#
# Environment: MODEL DATA IMAGES OUTPUT NUM_GPUS HOSTFILE DEEPSPEED_CONFIG GLOBAL_BATCH PER_GPU_BATCH
# (bash scripts/finetune_full.sh --help explains them). --dry-run prints the command and changes nothing;
# --auto picks batch, accumulation and ZeRO stage for the GPUs of this machine.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

launch full \
  --learning_rate 2e-5 --weight_decay 0 --warmup_steps 0.03 --lr_scheduler_type cosine \
  --gradient_checkpointing True --lazy_preprocess True \
  --logging_steps 1 --save_strategy steps --save_steps 500 --save_total_limit 1 --report_to none "$@"
