#!/usr/bin/env bash
# Builds Harrow and runs its tests. All set-up included; root or sudo on a fresh Debian 12.
#   scripts/test.sh           release build, all quick tests
#   scripts/test.sh --slow    the slow ones as well
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
scripts/build.sh release all
exclude=(-LE slow)
[ "${1:-}" = "--slow" ] && exclude=()
ctest --test-dir build/release --output-on-failure -j "$(nproc)" "${exclude[@]}"
