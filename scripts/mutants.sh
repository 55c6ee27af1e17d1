#!/usr/bin/env bash
# Whether the tests notice small faults: 100 mutants, the same ones every time (see benchmarks/mutants.py).
#   bash scripts/mutants.sh
#   bash scripts/mutants.sh --area masking merge
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# One thread: forked children of a process with a thread pool would wait for threads that they do not have.
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 PYTHONWARNINGS=ignore
exec .venv/bin/python benchmarks/mutants.py "$@"
