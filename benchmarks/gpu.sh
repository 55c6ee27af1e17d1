#!/usr/bin/env bash
# All that a GPU should show of this project, in at most 9 minutes: a 7B's shape with random weights, one table.
#
#   bash benchmarks/gpu.sh                on a GPU; writes build/benchmarks/gpu.md and gpu.json
#   bash benchmarks/gpu.sh --rehearse     the same program at a tiny size on the CPU, to its end
set -euo pipefail
cd "$(dirname "$0")/.."
exec .venv/bin/python benchmarks/gpu.py "$@"
