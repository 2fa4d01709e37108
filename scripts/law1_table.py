#!/usr/bin/env python3
"""Writes docs/law1.md: every format, density and M against dense, from this machine's profile.

    scripts/law1_table.py [--measure] [--seconds 110] [--harrow build/release/harrow]
                          [--bench build/release/bench/linear_bench] [-o docs/law1.md]

The table is `harrow doctor -o md` (--measure measures anew first). With --bench, a build with oneDNN
(-DHARROW_BENCH=ON, libdnnl-dev), a table of Harrow's dense kernels beside oneDNN's follows, and the
cells that lose once the faster of the two is the opponent.
"""
import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOAL, FLOOR = 0.95, 0.88


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"law1_table: {' '.join(map(str, command))} ended with {done.returncode}")
    return done.stdout


def onednn_factors(bench, profile):
    """(dense format, M) -> time of oneDNN over that of Harrow's dense kernel, medians of one run."""
    shape = f"{profile['rows']}x{profile['cols']}"
    dense = sorted({row["dense"] for row in profile["break_even"]})
    ms = sorted({row["m"] for row in profile["break_even"]})
    wanted = f"^({'|'.join(dense)})/d100/{shape}/M({'|'.join(map(str, ms))})/"
    text = run([bench, f"--threads={profile['threads']}", "--stack_mb=96", "--rounds=9",
                f"--benchmark_filter={wanted}", "--benchmark_format=json"])
    factors = {}
    for row in json.loads(text)["benchmarks"]:
        if "onednn_us" in row:
            name, m = row["name"].split("/d100/")[0], int(row["name"].split("/M")[1].split("/")[0])
            factors[name, m] = row["onednn_us"] / row["us"]
    return factors


def onednn_section(profile, factors):
    lines = ["", "## oneDNN's dense kernels beside Harrow's", "",
             "Speed of Harrow's dense kernel relative to oneDNN's (bench/onednn_gemm.h: x already rounded, weights in",
             "oneDNN's own layout, one scale for all). Below 1, the opponent of law 1 is oneDNN.", ""]
    ms = sorted({m for _, m in factors})
    lines.append("| format |" + "".join(f" M {m} |" for m in ms))
    lines.append("|---|" + "---:|" * len(ms))
    for name in sorted({name for name, _ in factors}):
        cells = (f" {factors[name, m]:.2f} |" if (name, m) in factors else " |" for m in ms)
        lines.append(f"| {name} |" + "".join(cells))
    lost = []
    for row in profile["break_even"]:
        ratio = row["ratio"] * min(1, factors.get((row["dense"], row["m"]), 1))
        if ratio < GOAL <= row["ratio"] or ratio < FLOOR <= row["ratio"]:
            lost.append((row["format"], row["density"], row["m"], ratio))
    lines += ["", f"With the faster of the two as opponent, {len(lost)} more cells fall below {GOAL} or {FLOOR}:"
              if lost else "", ""]
    if lost:
        lines += ["| format | zeros | M | x dense |", "|---|---:|---:|---:|"]
        lines += [f"| {f} | {100 * (1 - d):.0f} % | {m} | {r:.2f} |" for f, d, m, r in lost]
    return "\n".join(lines).rstrip() + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure the machine first")
    parser.add_argument("--seconds", default="110", help="with --measure: how long")
    parser.add_argument("--harrow", default=ROOT / "build/release/harrow")
    parser.add_argument("--bench", help="linear_bench, built with oneDNN")
    parser.add_argument("-o", "--output", default=ROOT / "docs/law1.md", type=pathlib.Path)
    args = parser.parse_args()
    if args.measure:
        run([args.harrow, "doctor", "--measure", "--seconds", args.seconds])
    text = run([args.harrow, "doctor", "-o", "md"])
    if args.bench:
        profile = json.loads(run([args.harrow, "doctor", "-o", "json"]))["profile"]
        factors = onednn_factors(args.bench, profile)
        if not factors:
            sys.exit(f"law1_table: {args.bench} was built without oneDNN, or has none of the profile's shapes")
        text += onednn_section(profile, factors)
    args.output.write_text(text, encoding="utf-8")
    print(f"law1_table: wrote {args.output}")


if __name__ == "__main__":
    main()
