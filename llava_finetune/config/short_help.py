"""`train --help` in a screen: what most runs need, in the order of a run. `--help-all` prints every flag."""

from __future__ import annotations

from collections.abc import Sequence

TEXT = """usage: bash scripts/finetune_lora.sh [FLAGS]        (or finetune_qlora.sh, finetune_full.sh, pretrain.sh)
       llava-finetune train --model_name_or_path MODEL --data_path DATA --output_dir OUTPUT [FLAGS]

Train a LLaVA on your records. The scripts work out batch, epochs and processes; all of these flags go behind them.

what is trained
  --lora_enable True --lora_r 128 --lora_alpha 256    an adapter on the language model (the scripts say it)
  --bits 4                                             the base in 4 bit: QLoRA
  --lora_targets language,vision                       the vision tower too
  --freeze_mm_mlp_adapter True                         leave the projector as it is
how long and how fast
  --num_train_epochs 3         passes over the data
  --max_steps N                or steps
  --learning_rate 2e-4         LoRA; a tenth of it for full fine-tuning
  --warmup_steps 0.03          share of the steps in which the rate rises, or a number of steps
  --per_device_train_batch_size, --gradient_accumulation_steps      GLOBAL_BATCH sets both
  --augment True               vary pictures from epoch to epoch, as far as every answer stays true
how good
  --eval_data_path val.json --eval_strategy epoch      questions that are not trained on, asked while training
  --metric_for_best_model eval_exact_match             the result is the best checkpoint, not the last
  --early_stopping_patience 2                          stop when it no longer gets better
  --profile 5                                          say where the time of five steps goes
going on
  --resume auto                go on after a stop; --init_lora RUN starts a new run from an adapter

examples:
  MODEL=liuhaotian/llava-v1.5-7b DATA=train.json IMAGES=pictures OUTPUT=runs/mine bash scripts/finetune_lora.sh
  ... bash scripts/finetune_lora.sh --num_train_epochs 5 --eval_data_path val.json --eval_strategy epoch

llava-finetune train --help-all prints every flag, transformers' own too."""


def show_short_help(argv: Sequence[str]) -> bool:
    """Print it where --help is asked for; whether it was."""
    if not {"-h", "--help"} & set(argv):
        return False
    print(TEXT)
    return True
