#!/usr/bin/env bash
# Preference tuning: DPO on records with `chosen` and `rejected`, LoRA r 128, alpha 256; projector and tower frozen, so
# that the reference is the same model with its adapter switched off. MODEL is a tuned model, merged.
#
#   llava-finetune merge runs/mine runs/merged
#   MODEL=runs/merged DATA=pairs.json IMAGES=images OUTPUT=runs/preferred \
#     bash scripts/finetune_dpo.sh [FLAGS OF llava-finetune train ...]
#
# Environment: MODEL DATA IMAGES OUTPUT NUM_GPUS HOSTFILE DEEPSPEED_CONFIG GLOBAL_BATCH PER_GPU_BATCH
# (bash scripts/finetune_dpo.sh --help explains them). --dry-run prints the command and changes nothing;
# --auto picks batch, accumulation and ZeRO stage for the GPUs of this machine, as for LoRA.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

launch lora \
  --dpo True --dpo_beta 0.1 --sft_weight 0 \
  --lora_enable True --lora_r 128 --lora_alpha 256 --lora_dropout 0 --freeze_mm_mlp_adapter True \
  --learning_rate 1e-5 --weight_decay 0 --warmup_steps 0.1 --lr_scheduler_type cosine \
  --gradient_checkpointing True --lazy_preprocess True \
  --logging_steps 1 --save_strategy steps --save_steps 500 --save_total_limit 2 --report_to none "$@"
