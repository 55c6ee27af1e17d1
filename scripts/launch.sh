#!/usr/bin/env bash
# Shared by the launchers: finds the project's Python and hands over to `python -m llava_finetune.launching.launch`, which works
# out the batch arithmetic, checks the machine and starts deepspeed, torchrun or one process. Sourced, not run:
#
#   source scripts/launch.sh
#   launch lora --lora_enable True "$@"
set -euo pipefail

LAUNCH_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# The project's environment comes first unless PATH names it already (activated, or put there on purpose).
if [[ -x "$LAUNCH_ROOT/.venv/bin/python" && ":$PATH:" != *":$LAUNCH_ROOT/.venv/bin:"* ]]; then
  export PATH="$LAUNCH_ROOT/.venv/bin:$PATH"
fi
if ! command -v python >/dev/null; then
  echo "launch: no python on PATH and no .venv here; run: bash scripts/setup.sh" >&2
  exit 1
fi

# launch MODE FLAGS...: MODE is pretrain, full, lora or qlora; of two equal flags the later one wins.
launch() {
  export PYTHONPATH="$LAUNCH_ROOT${PYTHONPATH:+:$PYTHONPATH}"
  exec python -m llava_finetune.launching.launch "$@"
}
