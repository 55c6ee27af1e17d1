#!/usr/bin/env bash
# Ask a server through the clients that people use: openai for Python and for Node, litellm, langchain-openai and llm, in
# an environment of their own (build/clients). All must hear the same answers.
#
#   bash scripts/clients.sh                              a tiny model, served here on a free port
#   bash scripts/clients.sh http://127.0.0.1:8000/v1     a server that runs already
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PLACE=build/clients
mkdir -p "$PLACE"
if [[ ! -f "$PLACE/ready" || scripts/clients/requirements.txt -nt "$PLACE/ready" ]]; then
  python3 -m venv --clear "$PLACE/venv"
  "$PLACE/venv/bin/python" -m pip install --quiet -r scripts/clients/requirements.txt
  cp scripts/clients/package.json scripts/clients/ask.mjs "$PLACE/"
  npm install --prefix "$PLACE" --silent --no-audit --no-fund
  touch "$PLACE/ready"
fi

url="${1:-}"
if [[ -z "$url" ]]; then
  SETUP_EXTRAS="dev serve"
  # shellcheck source=scripts/setup.sh
  source scripts/setup.sh
  model="$PLACE/tiny"
  [[ -d "$model" ]] || python -c "from pathlib import Path; from tests.tiny import make_tiny_llava; make_tiny_llava(Path('$model'))"
  python -m llava_finetune serve "$model" --port 0 --no-page --no-compare >"$PLACE/serve.log" 2>&1 &
  server=$!
  trap 'kill "$server" 2>/dev/null' EXIT
  for _ in $(seq 600); do
    url="$(grep -oE 'http://[^ ]+/v1' "$PLACE/serve.log" || true)"
    [[ -z "$url" ]] || break
    kill -0 "$server" 2>/dev/null || { cat "$PLACE/serve.log" >&2 && exit 1; }
    sleep 0.2
  done
fi
"$PLACE/venv/bin/python" scripts/clients/ask.py "$url" "$PLACE/ask.mjs"
