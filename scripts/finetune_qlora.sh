#!/usr/bin/env bash
# QLoRA fine-tuning: the language model in 4 bit (nf4, double quantisation), LoRA r 128, alpha 256, projector trained.
#
#   MODEL=liuhaotian/llava-v1.5-7b DATA=records.json IMAGES=images OUTPUT=runs/mine \
#     bash scripts/finetune_qlora.sh [FLAGS OF llava-finetune train ...]      (--bits 8 for 8 bit)
#
# Environment: MODEL DATA IMAGES OUTPUT NUM_GPUS HOSTFILE DEEPSPEED_CONFIG GLOBAL_BATCH PER_GPU_BATCH
# (bash scripts/finetune_qlora.sh --help explains them). ZeRO-2 or none: ZeRO-3 cannot partition 4-bit weights.
# --dry-run prints the command and changes nothing; --auto picks batch and accumulation for the GPUs of this machine.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

launch qlora \
  --bits 4 --quant_type nf4 --double_quant True \
  --lora_enable True --lora_r 128 --lora_alpha 256 --mm_projector_lr 2e-5 \
  --learning_rate 2e-4 --weight_decay 0 --warmup_steps 0.03 --lr_scheduler_type cosine \
  --gradient_checkpointing True --lazy_preprocess True \
  --logging_steps 1 --save_strategy steps --save_steps 500 --save_total_limit 2 --report_to none "$@"
