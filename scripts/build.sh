#!/usr/bin/env bash
# scripts/build.sh PRESET [ninja targets]: configures and builds build/PRESET.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=$1
shift
jobs=${HARROW_JOBS:-$(nproc)}
log=build/$preset-configure.log
mkdir -p build
cmake --preset "$preset" >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
ninja -C "build/$preset" -j "$jobs" "$@" | { grep -v -e '^\[' -e '^ninja: ' || true; }
