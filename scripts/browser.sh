#!/usr/bin/env bash
# Print the path of a Chromium for the browser tests; install Debian's when there is none and this user may.
#
#   CHROMIUM="$(bash scripts/browser.sh)" || echo "no browser"
set -euo pipefail

find_browser() {
  local name
  for name in "${CHROMIUM:-}" chromium chromium-browser google-chrome google-chrome-stable; do
    [[ -n "$name" ]] && command -v "$name" && return 0
  done
  return 1
}

find_browser && exit 0
if [[ "$(id -u)" != 0 ]] || ! command -v apt-get >/dev/null; then
  echo "no Chromium found, and only root with apt-get can install it: apt-get install chromium, or set CHROMIUM" >&2
  exit 1
fi
# Another package run may hold the lock for a while; packages need no questions answered.
export DEBIAN_FRONTEND=noninteractive
wait_for_lock=(-o DPkg::Lock::Timeout=120 -q)
if ! { apt-get "${wait_for_lock[@]}" update && apt-get "${wait_for_lock[@]}" install -y chromium fonts-dejavu-core; } >&2; then
  echo "apt-get could not install chromium: install it by hand, or set CHROMIUM" >&2
  exit 1
fi
find_browser
