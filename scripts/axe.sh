#!/usr/bin/env bash
# Print the path of axe-core, which finds what a page has against people who use a keyboard or a screen reader; the browser
# tests run it. Fetched with npm into build/axe, at the version named here: only these tests use it.
#
#   AXE="$(bash scripts/axe.sh)" || echo "no axe"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VERSION=4.14.1
PLACE="build/axe/$VERSION"
script="$PWD/$PLACE/node_modules/axe-core/axe.min.js"
if [[ ! -f "$script" ]]; then
  command -v npm >/dev/null || { echo "no npm found, which fetches axe-core for the browser tests: install Node.js" >&2 && exit 1; }
  mkdir -p "$PLACE"
  npm install --prefix "$PLACE" --silent --no-audit --no-fund "axe-core@$VERSION" >&2
fi
echo "$script"
