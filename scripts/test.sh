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
rm -f build/release/Testing/Temporary/LastTest.log
ctest --test-dir build/release --output-on-failure -j "$(nproc)" "${exclude[@]}"

# Tests skip what they need of ../shared/data where it is missing. Where that folder is here, a skip
# means that a path has gone wrong, and nobody would notice.
if [ -d "${HARROW_SHARED_DATA:-../shared/data}" ]; then
  missing=$(grep -Eo 'needs .*, which is not here' build/release/Testing/Temporary/LastTest.log | sort -u || true)
  if [ -n "$missing" ]; then
    printf 'test.sh: tests were skipped although the shared data is here:\n%s\n' "$missing" >&2
    exit 1
  fi
fi
