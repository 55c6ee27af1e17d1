#!/usr/bin/env bash
# Make .venv with the versions of constraints.txt, then fetch and patch upstream. Run again: reuses what is done.
#
#   bash scripts/setup.sh [EXTRA ...]      extras of setup.py: quant serve quickstart track dev gpu
#   source scripts/setup.sh                from another script; SETUP_EXTRAS="quant serve" names the extras
#
# PYTHON=/path/to/python3.12 names the interpreter. Needs no root, no hub and no CUDA: only pip's own package registry.
# Leaves .venv/bin first on PATH and TORCH_EXTENSIONS_DIR set, so that a sourcing script goes on in the environment.

if [[ "${BASH_SOURCE[0]}" == "$0" ]]; then
  set -euo pipefail
  case "${1:-}" in -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0" && exit 0 ;; esac
  SETUP_EXTRAS="${*:-${SETUP_EXTRAS:-}}"
fi
SETUP_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
SETUP_VENV="$SETUP_ROOT/.venv"
SETUP_LOG="$SETUP_ROOT/build/setup.log"
SETUP_MARKER="$SETUP_VENV/.setup-done" # written last: hash of the pins, then the extras that are installed
SETUP_START=$SECONDS
SETUP_TORCH="$(sed -n 's/^\(torch==[^ ;#]*\).*/\1/p' "$SETUP_ROOT/constraints.txt")"

setup_say() { printf '[setup %4ds] %s\n' "$((SECONDS - SETUP_START))" "$*"; }

setup_fail() {
  printf 'setup: %s\n' "$@" >&2
  return 1
}

# The version "3.11" of an interpreter, or nothing where it does not run.
setup_python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }

# Print the first interpreter of version 3.10 to 3.13: $PYTHON alone if it is set, else what PATH has.
setup_find_python() {
  local candidate version seen="" candidates=(python3 python3.12 python3.11 python3.13 python3.10 python)
  [[ -z "${PYTHON:-}" ]] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    version="$(setup_python_version "$candidate")"
    case "$version" in
      3.1[0-3]) command -v "$candidate" && return 0 ;;
      ?*) seen+=" $candidate is $version;" ;;
    esac
  done
  setup_fail "Python 3.10 to 3.13 is needed;${seen:- none found on PATH;}" \
    "install one (Debian, Ubuntu: apt install python3 python3-venv python3-dev; or pyenv, conda, uv)" \
    "and name it if it is not on PATH: PYTHON=/path/to/python3.12 bash scripts/setup.sh"
}

# DeepSpeed compiles its operators at run time; without a compiler training would fail only then.
setup_check_compiler() {
  [[ "$(uname -s)" == Linux ]] || return 0
  local name
  for name in "${CXX:-c++}" g++ clang++; do
    if command -v "$name" >/dev/null; then
      [[ "$name" == c++ ]] || export CXX="$name"
      return 0
    fi
  done
  setup_fail "no C++ compiler found (looked for ${CXX:-c++}, g++, clang++); DeepSpeed builds its operators with it" \
    "install one (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; conda: conda install gxx)" \
    "or name it: CXX=/path/to/g++ bash scripts/setup.sh"
}

setup_check_headers() {
  [[ "$(uname -s)" == Linux ]] || return 0
  local folder
  folder="$("$1" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')"
  [[ -f "$folder/Python.h" ]] || setup_fail "$1 has no Python.h (looked in $folder); DeepSpeed's operators include it" \
    "install the headers (Debian, Ubuntu: apt install python3-dev; Fedora: dnf install python3-devel)"
}

setup_make_venv() {
  local python="$1" version
  version="$(setup_python_version "$SETUP_VENV/bin/python")"
  if [[ "$version" == 3.1[0-3] ]] && "$SETUP_VENV/bin/python" -c 'import pip' 2>/dev/null; then return 0; fi
  [[ ! -e "$SETUP_VENV" ]] || setup_say "making .venv again: the one here is incomplete or of another Python"
  setup_say "making .venv with $python ($("$python" -V 2>&1))"
  "$python" -m venv --clear "$SETUP_VENV" >"$SETUP_LOG" 2>&1 || setup_fail \
    "$python -m venv failed; its last lines:" "$(tail -n 3 "$SETUP_LOG")" \
    "on Debian and Ubuntu: apt install python3-venv (the one for this version of Python), then run this again"
}

# Say why pip failed in one message; $1 is what was being installed.
setup_explain_pip() {
  local network='NewConnectionError|ConnectionError|name resolution|Connection refused|timed out|ProxyError|SSLError'
  network+='|Network is unreachable|Could not fetch URL|Max retries exceeded|Connection broken|ConnectTimeout'
  if grep -qE 'No space left on device' "$SETUP_LOG"; then
    setup_fail "the disk is full while installing $1; about 3 GB are needed (8 GB with CUDA)" \
      "$(df -h "$SETUP_ROOT" | tail -n 1)" "free some space and run this again: what is installed is kept"
  elif grep -qE "$network" "$SETUP_LOG"; then
    setup_fail "the package registry can't be reached while installing $1:" \
      "$(grep -E "$network" "$SETUP_LOG" | tail -n 1 | cut -c 1-200)" \
      "check the network and pip's settings (pip config list; HTTPS_PROXY for a proxy, PIP_INDEX_URL for a mirror)," \
      "then run this again: what is installed is kept. The whole log: $SETUP_LOG"
  else
    setup_fail "pip failed while installing $1; its last lines:" "$(grep -v '^$' "$SETUP_LOG" | tail -n 6)" \
      "the whole log: $SETUP_LOG. After mending it run this again: what is installed is kept"
  fi
}

# setup_pip WHAT ARGUMENTS...: pip with the pins, torch's on every call, and a line every 20 s while it works.
setup_pip() {
  local what="$1" pip beat=0
  shift
  setup_say "installing $what"
  "$SETUP_VENV/bin/python" -m pip install --no-input --no-compile --progress-bar off \
    -c "$SETUP_ROOT/constraints.txt" "$SETUP_TORCH" "$@" >"$SETUP_LOG" 2>&1 &
  pip=$!
  # shellcheck disable=SC2064  # the id is known now
  trap "kill $pip 2>/dev/null; exit 130" EXIT INT TERM
  while kill -0 "$pip" 2>/dev/null; do
    sleep 0.2
    beat=$((beat + 1))
    ((beat % 100)) || setup_say "  ... $(grep -oE '^ *(Collecting|Downloading|Building|Installing) [^ ]+' "$SETUP_LOG" |
      tail -n 1 || true)"
  done
  trap - EXIT INT TERM
  wait "$pip" || setup_explain_pip "$what"
}

# The pins and the interpreter; another hash means that pip has to look again.
setup_hash() {
  {
    cat "$SETUP_ROOT/constraints.txt" "$SETUP_ROOT/setup.py"
    setup_python_version "$SETUP_VENV/bin/python"
  } | cksum | cut -d ' ' -f 1-2
}

# Whether the marker holds this hash and every wanted extra.
setup_is_done() {
  local hash="" done_extras="" extra
  [[ -f "$SETUP_MARKER" ]] && { read -r hash && read -r done_extras || true; } <"$SETUP_MARKER"
  [[ -n "$hash" && "$hash" == "$(setup_hash)" ]] || return 1
  for extra in ${SETUP_EXTRAS:-}; do [[ " $done_extras " == *" $extra "* ]] || return 1; done
}

setup_install() {
  local python extras done_extras=""
  python="$(setup_find_python)" || return 1
  setup_check_compiler || return 1
  setup_make_venv "$python" || return 1
  setup_check_headers "$SETUP_VENV/bin/python" || return 1
  if setup_is_done; then
    setup_say "environment is ready: .venv holds these pins"
    return 0
  fi
  [[ -f "$SETUP_MARKER" ]] && done_extras="$(sed -n 2p "$SETUP_MARKER")"
  rm -f "$SETUP_MARKER"
  extras="$(tr ' ' '\n' <<<"${SETUP_EXTRAS:-} $done_extras" | sort -u | grep . | paste -sd , -)" || true
  setup_pip "$SETUP_TORCH and the build tools" setuptools wheel ninja py-cpuinfo hjson msgpack || return 1
  export DS_BUILD_OPS=0
  setup_pip "the project and what it needs${extras:+ (extras: $extras)}" \
    --no-build-isolation -e "$SETUP_ROOT${extras:+[$extras]}" || return 1
  setup_link_llava || return 1
  setup_say "compiling modules"
  setup_compile "$(setup_site)"
  printf '%s\n%s\n' "$(setup_hash)" "${extras//,/ }" >"$SETUP_MARKER.new" && mv "$SETUP_MARKER.new" "$SETUP_MARKER"
}

setup_site() { "$SETUP_VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])'; }

# pip would compile 20,000 modules on one core. Left to the first import, every process would do it again where
# PYTHONDONTWRITEBYTECODE is set. Packages hold files for other versions of Python, which do not compile: no failure.
setup_compile() { "$SETUP_VENV/bin/python" -m compileall -qq -j 0 "$@" || true; }

# `import llava` is build/patched/llava from any folder, also when the tree is made again.
setup_link_llava() {
  local site
  site="$(setup_site)" || return 1
  printf '%s\n' "$SETUP_ROOT/build/patched" >"$site/llava_finetune_patched.pth"
}

# An extra that setup.py does not have would be left out by pip with a warning among hundreds of lines.
setup_check_extras() {
  local extra known
  known="$(sed -n 's/^    "\([a-z]*\)": \[.*/\1/p' "$SETUP_ROOT/setup.py" | tr '\n' ' ')"
  for extra in ${SETUP_EXTRAS:-}; do
    [[ " $known" == *" $extra "* ]] || setup_fail "no extra $extra; there are: ${known% }" || return 1
  done
}

setup_main() {
  setup_check_extras || return 1
  mkdir -p "$SETUP_ROOT/build" || return 1
  (
    # Two set-ups at once would write one .venv; the second waits.
    if command -v flock >/dev/null; then flock 9; fi
    setup_install && cd "$SETUP_ROOT" || exit 1
    setup_say "fetching and patching upstream"
    "$SETUP_VENV/bin/python" -m patches fetch && "$SETUP_VENV/bin/python" -m patches apply || exit 1
    setup_compile llava_finetune data_prep patches build/patched
  ) 9>"$SETUP_ROOT/build/setup.lock" || return 1
  setup_say "ready; in this shell: source ${SETUP_VENV#"$PWD"/}/bin/activate"
  export VIRTUAL_ENV="$SETUP_VENV" TORCH_EXTENSIONS_DIR="${TORCH_EXTENSIONS_DIR:-$SETUP_VENV/torch_extensions}"
  [[ ":$PATH:" == *":$SETUP_VENV/bin:"* ]] || export PATH="$SETUP_VENV/bin:$PATH"
}

setup_main
