#!/usr/bin/env bash
# Makes both reference models from nothing: data, training, scores, golden files, what compression costs, document.
# Started again after an interruption it goes on from the last checkpoint. From the project's root:
#
#   PROSE=../shared/data/corpora/english WORK=build/reference tools/reference_model/build.sh
#
# TOKENS    different training tokens (default 18000000); a model sees them 1.4 times
# SIZE      small (4.9 M parameters, for CPUs) or base (9.7 M, for a GPU)
# Needs scripts/setup.sh for the program that compresses them.
# PYTHON    interpreter with torch, numpy, tokenizers, safetensors, matplotlib
# ROWS, LR  rows per step, peak learning rate;  THREADS of each training
# SEQUENTIAL=1 trains the second sibling after the first; else beside its last third, where they part
set -euo pipefail
cd "$(dirname "$0")/../.."
here=tools/reference_model
prose=${PROSE:-../shared/data/corpora/english} work=${WORK:-build/reference} python=${PYTHON:-python3}
mkdir -p "$work"

[ -s "$work/data/.done" ] || {
  "$python" $here/prepare.py --prose "$prose" --out "$work/data" --tokens "${TOKENS:-18000000}"
  date > "$work/data/.done"
}
train() {  # name, activation, further arguments
  [ ! -s "$work/$1/train.json" ] || return 0
  "$python" $here/train.py --data "$work/data" --out "$work/$1" --act "$2" --size "${SIZE:-small}" \
    --rows "${ROWS:-8}" --lr "${LR:-4e-3}" --threads "${THREADS:-1}" "${@:3}" >> "$work/$1.log" 2>&1
}
train harrow-tiny silu &
first=$!
trap 'kill $first 2> /dev/null || true' EXIT
trunk=$work/harrow-tiny/trunk.pt
[ -z "${SEQUENTIAL:-}" ] || wait $first
while [ ! -s "$trunk" ]; do
  kill -0 $first 2> /dev/null || { echo "training stopped: see $work/harrow-tiny.log" >&2; exit 1; }
  sleep 5
done
train harrow-tiny-relu relu --trunk "$trunk"
wait $first
trap - EXIT

"$python" $here/generate.py tasks --out models/tasks
for name in harrow-tiny harrow-tiny-relu; do
  mkdir -p models/$name tests/golden
  for file in config.json generation_config.json model.safetensors tokenizer.json tokenizer_config.json train.json train.csv; do
    cp "$work/$name/$file" models/$name/
  done
  "$python" $here/evaluate.py --model models/$name --tasks models/tasks --prose "$prose/valid.txt.xz" \
    --json "$work/$name.scores.json" --golden tests/golden/$name-eval.json
done
scripts/build.sh release harrow
"$python" $here/generate.py text --split train --shards 1 --chars 800000 --out "$work/calibration"
"$python" $here/generate.py text --split test --shards 1 --chars 120000 --out "$work/text"
for name in harrow-tiny harrow-tiny-relu; do
  "$python" scripts/demo.py --harrow build/release/harrow --model models/$name --calibration "$work/calibration/train-00.txt" \
    --text "$work/text/test-00.txt" --tasks models/tasks/*.jsonl --no-speed --json "$work/$name.compressed.json" \
    --work "$work/compressed"
done
"$python" $here/test_hashes.py --update
"$python" $here/report.py --models models/harrow-tiny models/harrow-tiny-relu \
  --scores "$work/harrow-tiny.scores.json" "$work/harrow-tiny-relu.scores.json" \
  --compressed "$work/harrow-tiny.compressed.json" "$work/harrow-tiny-relu.compressed.json" --doc docs/reference_model.md
"$python" $here/test_hashes.py
