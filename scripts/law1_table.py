#!/usr/bin/env python3
"""Writes docs/law1.md: every format, density and M against dense, from machine profiles.

    scripts/law1_table.py --measure [--threads 2,1] [--seconds 110] [--through CMD]
    scripts/law1_table.py [--profile FILE]...

Each takes [--harrow build/release/harrow] [--bench build/release/bench/linear_bench] [-o docs/law1.md].

--measure measures one profile for each number of threads, into build/law1/profile-<n>t.json: not into
the one that kernels are chosen by. --profile takes profiles measured before, in calls of their own
(`harrow doctor --measure -t 1 --seconds 140 --profile FILE`); without either, it is the stored one of
this machine. The document has a part for each, most threads first: `harrow doctor -o md`, and with
--bench, a build with oneDNN (-DHARROW_BENCH=ON, libdnnl-dev), a table of Harrow's dense kernels beside
oneDNN's and the cells that lose once the faster of the two is the opponent. --through puts a command
before each measuring one, for instance a lock that keeps the machine quiet.
"""
import argparse
import json
import pathlib
import re
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOAL, FLOOR = 0.95, 0.88


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"law1_table: {' '.join(map(str, command))} ended with {done.returncode}")
    return done.stdout


def measure(harrow, through, threads, seconds):
    """The file of a new profile of so many threads."""
    file = ROOT / f"build/law1/profile-{threads}t.json"
    run(through + [harrow, "doctor", "--measure", "-t", str(threads), "--seconds", str(seconds),
                   "--profile", file, "-o", "json"])
    return file


def onednn_factors(bench, through, profile):
    """(dense format, M) -> time of oneDNN over that of Harrow's dense kernel, medians of one run."""
    shape = f"{profile['rows']}x{profile['cols']}"
    dense = sorted({row["dense"] for row in profile["break_even"]})
    ms = sorted({row["m"] for row in profile["break_even"]})
    wanted = f"^({'|'.join(dense)})/d100/{shape}/M({'|'.join(map(str, ms))})/"
    text = run(through + [bench, f"--threads={profile['threads']}", "--stack_mb=96", "--rounds=9",
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


def part(harrow, bench, through, profile_flags):
    """(threads, Markdown without its title) of one profile."""
    report = json.loads(run([harrow, "doctor", *profile_flags, "-o", "json"]))
    profile = report["profile"]
    if profile["threads"] == 0:
        sys.exit(f"law1_table: no profile in {report['profile_file']}: {report['profile_state']}")
    text = run([harrow, "doctor", *profile_flags, "-o", "md"])
    if bench:
        factors = onednn_factors(bench, through, profile)
        if not factors:
            sys.exit(f"law1_table: {bench} was built without oneDNN, or has none of the profile's shapes")
        text += onednn_section(profile, factors)
    return profile["threads"], text.split("\n", 1)[1].strip()


def document(parts):
    """One text of (threads, Markdown) parts, most threads first."""
    text = "# Law 1: every format against dense\n\nWritten by scripts/law1_table.py.\n"
    for threads, body in sorted(parts, key=lambda one: -one[0]):
        deeper = re.sub(r"^#", "##", body, flags=re.MULTILINE)
        text += f"\n## {threads} thread{'s' if threads > 1 else ''}\n\n{deeper}\n"
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--measure", action="store_true", help="measure the machine first")
    source.add_argument("--profile", action="append", metavar="FILE", help="a profile; may be given more than once")
    parser.add_argument("--threads", help="with --measure: numbers of threads; 2,1")
    parser.add_argument("--seconds", type=int, help="with --measure: how long each; 110")
    parser.add_argument("--through", default="", metavar="CMD", help="runs each measurement")
    parser.add_argument("--harrow", default=ROOT / "build/release/harrow")
    parser.add_argument("--bench", help="linear_bench, built with oneDNN")
    parser.add_argument("-o", "--output", default=ROOT / "docs/law1.md", type=pathlib.Path)
    args = parser.parse_args()
    through = shlex.split(args.through)
    files = args.profile or []
    if not args.measure and (args.threads or args.seconds):
        parser.error("--threads and --seconds go with --measure")
    if args.measure:
        threads, seconds = args.threads or "2,1", args.seconds or 110
        if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", threads):
            parser.error(f"--threads: expected numbers as 2,1, found {threads!r}")
        files = [measure(args.harrow, through, int(count), seconds) for count in threads.split(",")]
    flags = [["--profile", file] for file in files] or [[]]
    parts = [part(args.harrow, args.bench, through, flag) for flag in flags]
    if len({threads for threads, _ in parts}) < len(parts):
        sys.exit("law1_table: two profiles have the same number of threads")
    args.output.write_text(document(parts), encoding="utf-8")
    print(f"law1_table: wrote {args.output}")


if __name__ == "__main__":
    main()
