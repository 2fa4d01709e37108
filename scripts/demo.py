#!/usr/bin/env python3
"""Compresses a model several ways with the harrow program; prints one table of what it cost and what it gained.

scripts/demo.sh builds the program and calls this. Everything is measured in this run: perplexity, divergence and
size come from `harrow compare` against the dense model, task accuracy from `harrow eval --tasks`, and speed from
`harrow bench --shape`, which alternates the sparse and the dense format on random weights in the shape of a real
model. (The demo's own model fits into a cache, where decoding is not limited by bytes and its speed says nothing.)
"""
import argparse
import json
import pathlib
import subprocess
import sys
import time

PRUNE = ["prune", "--method"]
RECIPES = [  # name, harrow command
    ("magnitude 50 %", [*PRUNE, "magnitude", "--sparsity", "0.5"]),
    ("Wanda 50 %", [*PRUNE, "wanda", "--sparsity", "0.5"]),
    ("SparseGPT 50 %", [*PRUNE, "sparsegpt", "--sparsity", "0.5"]),
    ("SparseGPT 2:4", [*PRUNE, "sparsegpt", "--pattern", "2:4"]),
    ("SparseGPT 70 %", [*PRUNE, "sparsegpt", "--sparsity", "0.7"]),
    ("INT8", ["quantize", "--weights", "int8"]),
    ("SparseGPT 50 % + INT8", [*PRUNE, "sparsegpt", "--sparsity", "0.5", "--weights", "int8"]),
]
SPEED = [  # sparse format, density, dense format of the same precision
    ("bitmask-bf16", "0.5", "dense-bf16"),
    ("bitmask-i8", "0.5", "dense_panel-i8"),
]


def call(harrow, *arguments):
    done = subprocess.run([harrow, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"demo: `harrow {' '.join(map(str, arguments))}` failed with exit code {done.returncode}")
    return done.stdout


def accuracy(args, model):
    if not args.tasks:
        return {}
    report = json.loads(call(args.harrow, "eval", model, "--tasks", ",".join(args.tasks), "-o", "json"))
    return {row["part"]: row["acc"] for row in report["rows"] if row.get("distance") is None and row["part"] != "all"}


def table(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for n, row in enumerate(rows):
        print("  ".join(cell.ljust(w) if i == 0 else cell.rjust(w)
                        for i, (cell, w) in enumerate(zip(row, widths))).rstrip())
        if n == 0:
            print("  ".join("-" * w for w in widths))


def compression_table(args, work):
    dense_tasks = accuracy(args, args.model)
    parts = sorted(dense_tasks)
    header = ["", "bytes", "of dense", "perplexity", "+/-", "KL nats", "top-1 same", *parts]
    rows, best = [], None
    for name, command in RECIPES:
        out = work / name.replace(" ", "").replace("%", "").replace(":", "of")
        extra = [] if "magnitude" in command or command[0] == "quantize" else [
            "--calibration", args.calibration, "--mode", "concat"]
        call(args.harrow, command[0], args.model, *command[1:], *extra, "-o", out, "--overwrite", "--no-measure")
        result = json.loads(call(args.harrow, "compare", args.model, out, "--text", args.text,
                                 "-p", 0, "-n", 0, "-o", "json"))
        tasks = accuracy(args, out)
        if not rows:
            dense = result["dense"]
            rows.append(["dense", f"{dense['disk_bytes']:,}", "1.00", f"{dense['ppl']:.3f}",
                         f"{dense['ppl_stderr']:.3f}", "0", "100 %", *(f"{dense_tasks[p]:.0%}" for p in parts)])
        sparse = result["sparse"]
        rows.append([name, f"{sparse['disk_bytes']:,}", f"{result['disk_ratio']:.2f}", f"{sparse['ppl']:.3f}",
                     f"{sparse['ppl_stderr']:.3f}", f"{result['kl']:.4f}", f"{result['top1_agreement']:.1%}",
                     *(f"{tasks[p]:.0%}" for p in parts)])
        if best is None or result["kl"] < best[1]:
            best = (name, result["kl"], result["disk_ratio"])
    table([header, *rows])
    return best


def speed_table(args):
    header = ["", "tok/s", "roof read", "of the dense format"]
    rows, verdicts = [], []
    for sparse, density, dense in SPEED:
        report = json.loads(call(args.harrow, "bench", "--shape", args.shape, "--format", sparse, "--density", density,
                                 "--vs", dense, "-p", args.prompt, "-n", args.generate, "-r", 3, "-o", "json"))
        for row in report["rows"]:
            roof = "" if row["roof_fraction"] is None else f"{row['roof_fraction']:.0%}"
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f} x"
            name = row["format"] + (f" {float(density):.0%}" if row["format"].startswith("bitmask") else "")
            rows.append([f"{row['test']}  {name}", f"{row['tps']:.1f}", roof, ratio])
            if row["test"].startswith("tg") and row["ratio"] is not None:
                verdicts.append((sparse, row["ratio"]))
    table([header, *rows])
    return verdicts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--harrow", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--calibration", required=True, help="text to calibrate on")
    parser.add_argument("--text", required=True, help="held-back text to measure on")
    parser.add_argument("--tasks", nargs="*", default=[], help="task files")
    parser.add_argument("--shape", required=True, help="config.json of the speed part")
    parser.add_argument("--prompt", type=int, default=128, help="prompt tokens of the speed part")
    parser.add_argument("--generate", type=int, default=24, help="generated tokens of the speed part")
    parser.add_argument("--work", required=True, help="folder for the compressed models")
    args = parser.parse_args()
    work = pathlib.Path(args.work)
    work.mkdir(parents=True, exist_ok=True)

    start = time.monotonic()
    print(f"What compression costs: {args.model}, measured on {args.text}\n")
    best = compression_table(args, work)
    print(f"\nWhat sparsity gains here: random weights in the shape of {args.shape}, decode (tg) and prefill (pp)\n")
    verdicts = speed_table(args)
    gains = ", ".join(f"{name} at 50 % decodes {ratio:.2f} times as fast as dense of its precision"
                      for name, ratio in verdicts)
    advice = ("sparsity pays on this machine" if all(ratio > 1.05 for _, ratio in verdicts)
              else "sparsity does not pay for every format here: see the table")
    print(f"\nVerdict: {best[0]} stays closest to dense (KL {best[1]:.4f} nats a token) at {best[2]:.2f} of its bytes; "
          f"{gains}: {advice}. ({time.monotonic() - start:.0f} s)")


if __name__ == "__main__":
    main()
