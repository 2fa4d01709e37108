#!/usr/bin/env bash
# Makes both reference models from nothing: data, training, scores, golden file, document. Started again after
# an interruption it goes on from the last checkpoint. From the project's root:
#
#   PROSE=../shared/data/corpora/english WORK=build/reference tools/reference_model/build.sh
#
# TOKENS    training tokens per model (default 24000000)
# MINUTES   bound on each training by the clock, 0 for none: the schedule is fitted to it
# SIZE      small (4.9 M parameters, for CPUs) or base (9.7 M, for a GPU)
# PYTHON    interpreter with torch, numpy, tokenizers, safetensors, matplotlib
# ROWS, LR  rows per step, peak learning rate;  SEQUENTIAL=1 trains one sibling after the other
set -euo pipefail
cd "$(dirname "$0")/../.."
here=tools/reference_model
prose=${PROSE:-../shared/data/corpora/english} work=${WORK:-build/reference} python=${PYTHON:-python3}
mkdir -p "$work"

[ -s "$work/data/.done" ] || {
  "$python" $here/prepare.py --prose "$prose" --out "$work/data" --tokens "${TOKENS:-24000000}"
  date > "$work/data/.done"
}
pids=()
for act in silu relu; do
  name=harrow-tiny; [ $act = silu ] || name=harrow-tiny-relu
  [ -s "$work/$name/train.json" ] && continue
  nice -n 10 "$python" $here/train.py --data "$work/data" --out "$work/$name" --act $act --size "${SIZE:-small}" \
    --rows "${ROWS:-4}" --lr "${LR:-1.5e-3}" --minutes "${MINUTES:-0}" --threads "${THREADS:-1}" >> "$work/$name.log" 2>&1 &
  pids+=($!)
  [ -z "${SEQUENTIAL:-}" ] || wait $!
done
for pid in ${pids[@]+"${pids[@]}"}; do wait "$pid"; done

"$python" $here/generate.py tasks --out models/tasks
for name in harrow-tiny harrow-tiny-relu; do
  mkdir -p models/$name tests/golden
  for file in config.json generation_config.json model.safetensors tokenizer.json tokenizer_config.json train.json train.csv; do
    cp "$work/$name/$file" models/$name/
  done
  "$python" $here/evaluate.py --model models/$name --tasks models/tasks --prose "$prose/valid.txt.xz" \
    --json "$work/$name.scores.json" --golden tests/golden/$name-eval.json
done
"$python" $here/test_hashes.py --update
"$python" $here/report.py --models models/harrow-tiny models/harrow-tiny-relu \
  --scores "$work/harrow-tiny.scores.json" "$work/harrow-tiny-relu.scores.json" --doc docs/reference_model.md
"$python" $here/test_hashes.py
