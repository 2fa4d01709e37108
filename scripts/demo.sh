#!/usr/bin/env bash
# Builds Harrow and runs the main job on the model that the repository ships: prune and quantize it several ways, print
# what each cost in accuracy and bytes, and what sparsity gains in speed on this machine. All set-up included; root or
# sudo on a fresh Debian 12. Needs about 4 GB of memory for the speed part.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
scripts/build.sh release harrow

work=build/demo
mkdir -p "$work"
# The text comes from the project's own generator: training split to calibrate on, test split to measure on.
generate=(python3 tools/reference_model/generate.py)
"${generate[@]}" text --split train --shards 1 --chars 800000 --out "$work/calibration" >/dev/null
"${generate[@]}" text --split test --shards 1 --chars 120000 --out "$work/text" >/dev/null

exec python3 scripts/demo.py --harrow build/release/harrow --model models/harrow-tiny \
  --calibration "$work"/calibration/*.txt --text "$work"/text/*.txt --tasks models/tasks/*.jsonl \
  --shape bench/shapes/llama-1.1b --work "$work/models"
