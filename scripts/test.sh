#!/usr/bin/env bash
# Set up what the checks need and run all of them: ruff, mypy, shellcheck, then the tests. Exit code 0 only if all pass.
#
#   bash scripts/test.sh                       everything (31 minutes on 2 cores, after a set-up of 4)
#   bash scripts/test.sh tests/house -k plan   the style checks, and these tests
#   bash scripts/test.sh --quick               without set-up and slow tests: the style checks and the fast tests of the
#                                              rooms that most changes touch, in less than five minutes
#   bash scripts/test.sh --quick tests/saved   the style checks, and the fast tests of this folder
#   PYTEST_WORKERS=1 bash scripts/test.sh      one test at a time
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

QUICK=(tests/house/test_layering.py tests/house/test_architecture.py tests/house/test_cli.py tests/saved
  tests/planning/test_shapes.py tests/evaluation/test_metrics.py tests/evaluation/test_intervals.py
  tests/data/test_independent_turns.py tests/data_prep/test_ids.py tests/data_prep/test_json_list.py
  tests/patches/test_edits.py tests/patches/test_engine.py tests/patches/test_pattern.py)

quick=""
if [[ "${1:-}" == --quick ]]; then
  quick=yes
  shift
  [[ -x .venv/bin/python ]] || { printf 'error: no .venv here; run bash scripts/setup.sh dev first\n' >&2; exit 2; }
  PATH="$PWD/.venv/bin:$PATH"
  (($#)) || set -- "${QUICK[@]}"
  set -- -m "not slow" "$@"
else
  export SETUP_EXTRAS="dev quant serve quickstart track"
  # shellcheck source=scripts/setup.sh
  source scripts/setup.sh
fi

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
python -m pytest "${distribution[@]}" ${quick:+-q} --durations=25 "$@" || status=$?
# Nothing is printed after pytest's closing line: what reads the log takes its count from there.
((status == 0 && ${#failed[@]} == 0)) || exit 1
