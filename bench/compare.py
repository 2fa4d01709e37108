#!/usr/bin/env python3
"""Runs programs in turn and prints medians of their tokens a second.

    bench/compare.py [--rounds 3] NAME=COMMAND NAME=COMMAND ...

A COMMAND prints JSON: `llama-bench -o json` or `harrow bench ... -o json`. Each round runs every
command once, in order, so that a slow spell of the machine hits all alike. The first NAME is the
one that the others' ratios refer to (medians of the ratios round by round).
"""
import argparse
import json
import shlex
import statistics
import subprocess
import sys


def rows(text):
    """{test: tokens a second} of either program's JSON."""
    data = json.loads(text)
    if isinstance(data, dict):
        return {r["test"]: r["tps"] for r in data["rows"]}
    return {(f"pp{r['n_prompt']}" if r["n_prompt"] else f"tg{r['n_gen']}"): r["avg_ts"] for r in data}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("programs", nargs="+", metavar="NAME=COMMAND")
    args = parser.parse_args()
    programs = [p.split("=", 1) for p in args.programs]
    if any(len(p) != 2 for p in programs):
        parser.error("each program is NAME=COMMAND")
    samples = {name: {} for name, _ in programs}
    for _ in range(args.rounds):
        for name, command in programs:
            done = subprocess.run(shlex.split(command), capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(f"{name}: exit {done.returncode}: {done.stderr.strip()[-300:]}")
            for test, tps in rows(done.stdout).items():
                samples[name].setdefault(test, []).append(tps)
    first = programs[0][0]
    print(f"| test | program | tok/s (least .. most) | against {first} |")
    print("|---|---|---|---|")
    for test in samples[first]:
        for name, _ in programs:
            tps = samples[name].get(test)
            if tps is None:
                continue
            ratio = statistics.median(a / b for a, b in zip(tps, samples[first][test]))
            print(f"| {test} | {name} | {statistics.median(tps):.1f} ({min(tps):.1f} .. {max(tps):.1f}) | {ratio:.2f} |")


if __name__ == "__main__":
    main()
