#!/usr/bin/env bash
# Set up what the checks need and run all of them: ruff, mypy, shellcheck, then the tests. Exit code 0 only if all pass.
#
#   bash scripts/test.sh                       everything (at most 20 minutes on 2 cores, from nothing)
#   bash scripts/test.sh tests/house -k plan   the style checks, and these tests
#   PYTEST_WORKERS=1 bash scripts/test.sh      one test at a time
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export SETUP_EXTRAS="dev quant serve quickstart track"
# shellcheck source=scripts/setup.sh
source scripts/setup.sh

# One thread per process: the tests run in parallel, and two processes with two threads each fight on two cores.
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 PYTHONWARNINGS=ignore
failed=()
check() {
  local name="$1"
  shift
  printf '[check] %s\n' "$name"
  "$@" || failed+=("$name")
}

mapfile -t shell_files < <(git ls-files -- '*.sh' '*.sbatch' .ci/run)
check "ruff check" ruff check .
check "ruff format" ruff format --check .
check "mypy" mypy
check "shellcheck" shellcheck --external-sources "${shell_files[@]}"
((${#failed[@]} == 0)) || printf 'failed so far: %s\n' "${failed[*]}"

workers="${PYTEST_WORKERS:-$(python -c 'import os; print(min(os.cpu_count() or 1, 8))')}"
distribution=()
# A file's tests on one worker: what they share, such as the matrix's 150 trainings, is made once.
((workers <= 1)) || distribution=(-n "$workers" --dist loadfile --no-loadscope-reorder)
status=0
python -m pytest "${distribution[@]}" --durations=25 "$@" || status=$?
# Nothing is printed after pytest's closing line: what reads the log takes its count from there.
((status == 0 && ${#failed[@]} == 0)) || exit 1
