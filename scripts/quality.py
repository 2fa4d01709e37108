#!/usr/bin/env python3
"""Perplexity of each pruning method on the real models of ../shared/data, on text held back from calibration.

Prints a Markdown table. With --check it exits 1 where the ranking that the papers publish (SparseGPT < Wanda < magnitude
in perplexity) does not hold, or where a density is not exact; ctest runs it so under the label `slow`. Exit code 77
(skipped) when the data is not there.
"""
import argparse
import json
import pathlib
import subprocess
import sys

# Where Wanda does not beat magnitude, and we say so instead of asserting it: at 50 % on babyllama-105, a character model of
# 128 inputs a row whose weights have few outliers, magnitude's freedom to prune rows unequally is worth more than the
# input norms (7.59 against 7.98). The masks equal the float64 reference's, so this is the method, not a defect.
NOT_PUBLISHED_HERE = {("babyllama-105", "50 %")}
METHODS = ("magnitude", "wanda", "sparsegpt")  # worst first, as published for small models
LEVELS = [("50 %", ["--sparsity", "0.5"], 0.5), ("2:4", ["--pattern", "2:4"], 0.5), ("70 %", ["--sparsity", "0.7"], 0.7)]


def call(harrow, *arguments):
    done = subprocess.run([harrow, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"quality: `harrow {' '.join(map(str, arguments))}` failed with exit code {done.returncode}")
    return done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--harrow", required=True)
    parser.add_argument("--data", required=True, help="shared/data")
    parser.add_argument("--work", required=True)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    data, work = pathlib.Path(args.data), pathlib.Path(args.work)
    if not (data / "corpora/tinystories_1MB.txt").exists():
        print(f"quality: skipped, needs {data}/corpora/tinystories_1MB.txt")
        sys.exit(77)
    work.mkdir(parents=True, exist_ok=True)

    # The separator is in neither vocabulary and would be spelled out in characters. Four fifths of the stories calibrate,
    # the rest is measured on.
    stories = (data / "corpora/tinystories_1MB.txt").read_text(encoding="utf-8").split("<|endoftext|>")
    cut = len(stories) * 4 // 5
    calibration, held_back = work / "calibration.txt", work / "held-back.txt"
    calibration.write_text("".join(stories[:cut]), encoding="utf-8")
    held_back.write_text("".join(stories[cut:])[:150000], encoding="utf-8")
    baby = work / "babyllama-105"
    call(args.harrow, "convert", data / "models/babyllama-105/model5000.bin", "--tokenizer",
         data / "models/babyllama-105/tok105.model", "-o", baby, "--overwrite")

    print("| model | sparsity | method | perplexity | +/- | KL from dense, nats | bytes of dense |")
    print("|---|---|---|---|---|---|---|")
    failures = []
    for model in (data / "models/TinyStories-656K", baby):
        dense_shown = False
        for level, flags, sparsity in LEVELS:
            perplexity = {}
            for method in METHODS:
                out = work / f"{model.name}-{method}-{level.replace(' %', '').replace(':', 'of')}"
                extra = [] if method == "magnitude" else ["--calibration", calibration, "--mode", "concat"]
                report = json.loads(call(args.harrow, "prune", model, "--method", method, *flags, *extra, "-o", out,
                                         "--overwrite", "--no-measure", "--json"))
                for layer in report["compression"]["layers"]:
                    # Wanda counts per row, SparseGPT per block of 128 columns: each rounds down by less than one weight
                    # a row (or block).
                    slack = layer["rows"] if method == "wanda" else -(-layer["cols"] // 128)
                    want = layer["rows"] * layer["cols"] * (1 - sparsity)
                    if not 0 <= layer["nonzeros"] - want <= slack:
                        failures.append(f"{out.name} {layer['name']}: {layer['nonzeros']} non-zeros, {want} wanted")
                result = json.loads(call(args.harrow, "compare", model, out, "--text", held_back, "-p", 0, "-n", 0,
                                         "-o", "json"))
                dense, sparse = result["dense"], result["sparse"]
                if not dense_shown:
                    print(f"| {model.name} | dense | | {dense['ppl']:.3f} | {dense['ppl_stderr']:.3f} | 0 | 1.00 |")
                    dense_shown = True
                perplexity[method] = sparse["ppl"]
                print(f"| {model.name} | {level} | {method} | {sparse['ppl']:.3f} | {sparse['ppl_stderr']:.3f} | "
                      f"{result['kl']:.4f} | {result['disk_ratio']:.2f} |", flush=True)
            ranked = perplexity["sparsegpt"] < min(perplexity["wanda"], perplexity["magnitude"])
            if (model.name, level) not in NOT_PUBLISHED_HERE:
                ranked = ranked and perplexity["wanda"] < perplexity["magnitude"]
            if not ranked:
                failures.append(f"{model.name} at {level}: ranking is {sorted(perplexity, key=perplexity.get)}")
    for failure in failures:
        print(f"quality: {failure}")
    sys.exit(1 if failures and args.check else 0)


if __name__ == "__main__":
    main()
