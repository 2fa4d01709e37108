#!/usr/bin/env bash
# scripts/fuzz.sh [SECONDS] [TARGET...]: builds the fuzz targets with clang, ASan and UBSan and runs each for SECONDS
# (default 60). Found inputs stay in build/fuzz/corpus; a crash ends the script with its reproducer.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
shift || true
scripts/setup.sh --fuzz
scripts/build.sh fuzz all
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cd fuzz && ls fuzz_*.cc | sed 's/\.cc$//')
for target in "${targets[@]}"; do
  corpus=build/fuzz/corpus/$target
  mkdir -p "$corpus"
  seeds=fuzz/seeds/$target
  [ -d "$seeds" ] && cp -n "$seeds"/* "$corpus"/
  dict=fuzz/dict/$target.dict
  case $target in
    fuzz_tokenizer_json | fuzz_hf_config | fuzz_safetensors | fuzz_profile) [ -f "$dict" ] || dict=fuzz/dict/json.dict ;;
  esac
  options=()
  [ -f "$dict" ] && options+=("-dict=$dict")
  echo "fuzz: $target for $seconds s"
  "build/fuzz/fuzz/$target" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 ${options[@]+"${options[@]}"} \
    -artifact_prefix="build/fuzz/$target-" "$corpus" >"build/fuzz/$target.log" 2>&1 ||
    { tail -n 40 "build/fuzz/$target.log" >&2; exit 1; }
  tail -n 1 "build/fuzz/$target.log"
done
