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
RECIPES = [  # method, pattern, harrow command
    ("magnitude", "50 %", [*PRUNE, "magnitude", "--sparsity", "0.5"]),
    ("Wanda", "50 %", [*PRUNE, "wanda", "--sparsity", "0.5"]),
    ("SparseGPT", "50 %", [*PRUNE, "sparsegpt", "--sparsity", "0.5"]),
    ("SparseGPT", "2:4", [*PRUNE, "sparsegpt", "--pattern", "2:4"]),
    ("SparseGPT", "70 %", [*PRUNE, "sparsegpt", "--sparsity", "0.7"]),
    ("INT8", "dense", ["quantize", "--weights", "int8"]),
    ("SparseGPT + INT8", "50 %", [*PRUNE, "sparsegpt", "--sparsity", "0.5", "--weights", "int8"]),
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
    return {row["part"]: (row["acc"], row["acc_stderr"], row["chance"]) for row in report["rows"]
            if row.get("distance") is None and row["part"] != "all"}


def table(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for n, row in enumerate(rows):
        print("  ".join(cell.ljust(w) if i == 0 else cell.rjust(w)
                        for i, (cell, w) in enumerate(zip(row, widths))).rstrip())
        if n == 0:
            print("  ".join("-" * w for w in widths))


def degraded(dense, tasks):
    """Parts of the tasks by what they lost, in standard errors of the difference, worst first."""
    loss = {p: (dense[p][0] - tasks[p][0]) / max((dense[p][1] ** 2 + tasks[p][1] ** 2) ** 0.5, 1e-9) for p in tasks}
    return sorted(loss.items(), key=lambda entry: -entry[1])


def compression_table(args, work):
    """The rows of the table as dictionaries; the first is the dense model."""
    results = []
    for method, pattern, command in RECIPES:
        out = work / f"{method}-{pattern}".replace(" ", "").replace("%", "").replace(":", "of")
        extra = [] if "magnitude" in command or command[0] == "quantize" else [
            "--calibration", args.calibration, "--mode", "concat"]
        call(args.harrow, command[0], args.model, *command[1:], *extra, "-o", out, "--overwrite", "--no-measure")
        speed = ["-p", 0, "-n", 0] if args.no_speed else ["-p", 256, "-n", 32, "-r", 5]
        result = json.loads(call(args.harrow, "compare", args.model, out, "--text", args.text, *speed, "-o", "json"))
        if not results:
            results.append({"method": "dense", "pattern": "", "bytes": result["dense"]["disk_bytes"], "ratio": 1.0,
                            "ppl": result["dense"]["ppl"], "ppl_stderr": result["dense"]["ppl_stderr"], "kl": 0.0,
                            "tasks": accuracy(args, args.model)})
        results.append({"method": method, "pattern": pattern, "bytes": result["sparse"]["disk_bytes"],
                        "ratio": result["disk_ratio"], "ppl": result["sparse"]["ppl"],
                        "ppl_stderr": result["sparse"]["ppl_stderr"], "kl": result["kl"],
                        "decode": result["decode_speedup"], "prefill": result["prefill_speedup"],
                        "tasks": accuracy(args, out)})
    parts = sorted(results[0]["tasks"])

    def times(row, key):
        return "" if row.get(key) is None else f"{row[key]:.2f} x"

    rows = [["method", "pattern", "bytes", "of dense", "perplexity", "+/-", "KL nats", *parts, "decode", "prefill"]]
    rows += [[r["method"], r["pattern"], f"{r['bytes']:,}", f"{r['ratio']:.2f}", f"{r['ppl']:.3f}",
              f"{r['ppl_stderr']:.3f}", f"{r['kl']:.4f}", *(f"{r['tasks'][p][0]:.0%}" for p in parts),
              times(r, "decode"), times(r, "prefill")] for r in results]
    if parts:
        rows.append(["(guessing)", *[""] * 6, *(f"{results[0]['tasks'][p][2]:.0%}" for p in parts), "", ""])
    table(rows)
    if parts:
        print("\nWhat degrades first (standard errors below dense):")
        for r in results[1:]:
            lost = [f"{part} {z:.1f}" for part, z in degraded(results[0]["tasks"], r["tasks"]) if z > 2]
            print(f"  {r['method']} {r['pattern']}: {', '.join(lost) or 'nothing beyond 2'}")
    return results


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
    parser.add_argument("--shape", help="folder with the config.json of the speed part")
    parser.add_argument("--no-speed", action="store_true", help="measure no speed at all")
    parser.add_argument("--json", help="write the rows of the table here")
    parser.add_argument("--prompt", type=int, default=128, help="prompt tokens of the speed part")
    parser.add_argument("--generate", type=int, default=24, help="generated tokens of the speed part")
    parser.add_argument("--work", required=True, help="folder for the compressed models")
    args = parser.parse_args()
    work = pathlib.Path(args.work)
    work.mkdir(parents=True, exist_ok=True)

    start = time.monotonic()
    print(f"What compression costs: {args.model}, measured on {args.text}\n")
    results = compression_table(args, work)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps({"model": args.model, "rows": results}, indent=1) + "\n")
    best = min(results[1:], key=lambda r: r["kl"])
    verdict = (f"\nVerdict: {best['method']} ({best['pattern']}) stays closest to dense (KL {best['kl']:.4f} nats a token) "
               f"at {best['ratio']:.2f} of its bytes")
    if not args.no_speed:
        print("\nThis model fits into a cache, where decoding is not limited by bytes. What sparsity gains on random weights "
              f"in the shape of {args.shape}, decode (tg) and prefill (pp):\n")
        verdicts = speed_table(args)
        gains = ", ".join(f"{name} at 50 % decodes {ratio:.2f} times as fast as dense of its precision"
                          for name, ratio in verdicts)
        pays = all(ratio > 1.05 for _, ratio in verdicts)
        verdict += f"; {gains}: " + ("sparsity pays in decoding on this machine" if pays
                                     else "sparsity does not pay in decoding for every format here: see the table")
    print(f"{verdict}. ({time.monotonic() - start:.0f} s)")


if __name__ == "__main__":
    main()
