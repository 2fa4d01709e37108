#!/usr/bin/env python3
"""Prints the tables of docs/choosing.md from the study.json that `harrow study` wrote for scripts/study_recipes.py's recipes.

  scripts/study_tables.py out/study.json [--tasks]     a cell: perplexity / KL, with --tasks also accuracy in percent
"""
import argparse
import json
import pathlib

LEVELS = {"50": "50 %", "60": "60 %", "70": "70 %", "4of8": "4:8", "2of4": "2:4", "16x1": "16x1 50 %", "16x16": "16x16 50 %"}
PRUNERS = {"magnitude": "magnitude", "wanda": "Wanda", "ria": "RIA", "sparsegpt": "SparseGPT",
           "wanda-reconstruct": "Wanda + reconstruct", "alps": "ALPS"}
AFTER = {"sparsegpt": "SparseGPT", "sparsegpt-owl": "SparseGPT, OWL", "sparsegpt-dlp": "SparseGPT, DLP", "wanda-owl": "Wanda, OWL",
         "wanda-block": "Wanda + block_reconstruct", "alps": "ALPS", "alps-owl": "ALPS, OWL", "alps-dlp": "ALPS, DLP",
         "alps-dense": "ALPS + reconstruct, dense target", "alps-block": "ALPS + block_reconstruct",
         "alps-owl-block": "ALPS, OWL + block_reconstruct"}
GRIDS = {f"{kind}-g{group}": f"g{group} {kind}" for group in (32, 64, 128) for kind in ("sym", "asym")}
BOTH = {"sparsegpt-{}-int8": "SparseGPT, then RTN INT8", "sparsegpt-{}-then-rtn-int4": "SparseGPT, then RTN INT4 g64",
        "sparsegpt-{}-then-gptq-int4": "SparseGPT, then GPTQ INT4 g64", "sparsegpt-{}-joint-int4": "SparseGPT and INT4 g64 together",
        "sparsegpt-{}-joint-int4-lowrank": "the same + low-rank correction", "alps-{}-then-gptq-int4": "ALPS, then GPTQ INT4 g64"}
OTHER = {"dense": "dense", "dense-int8": "dense INT8", "dense-int4": "dense INT4 g128", "dense-int4-g32": "dense INT4 g32",
         "svd_llm-0.5": "SVD-LLM, ratio 0.5", "svd_llm-0.7": "SVD-LLM, ratio 0.7",
         "svd_llm-residual-60": "SVD-LLM 0.1 + 60 % sparse residual (SparseGPT)", "flap-0.2": "FLAP 20 %",
         "shortgpt-1": "ShortGPT, one block dropped"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("--tasks", action="store_true")
    args = parser.parse_args()
    points = {p["name"]: p for p in json.loads(pathlib.Path(args.study).read_text(encoding="utf-8"))["points"]}

    def cell(name):
        p = points.get(name)
        if p is None:
            return ""
        text = f"{p['ppl']:.3g} / {p['kl']:.3f}" if p["ppl"] >= 100 else f"{p['ppl']:.2f} / {p['kl']:.3f}"
        return text + (f" / {100 * p['task_accuracy']:.0f}" if args.tasks else "")

    def table(title, columns, rows):
        rows = [r for r in rows if any(r[1:])]
        used = [i for i in range(len(columns)) if any(r[i + 1] for r in rows)]
        if rows:
            print("\n".join(["| " + " | ".join([title] + [columns[i] for i in used]) + " |", "|---|" + "---|" * len(used)] +
                            ["| " + " | ".join([r[0]] + [r[i + 1] for i in used]) + " |" for r in rows]) + "\n")

    table("method", list(LEVELS.values()), [[label, *(cell(f"{m}-{level}") for level in LEVELS)] for m, label in PRUNERS.items()])
    table("method", ["60 %", "70 %"], [[label, *(cell(f"{m}-{level}") for level in ("60", "70"))] for m, label in AFTER.items()])
    table("INT4", list(GRIDS.values()), [[label, *(cell(f"{m}-int4-{grid}") for grid in GRIDS)]
                                         for m, label in (("rtn", "RTN"), ("awq", "AWQ"), ("gptq", "GPTQ, act-order"))])
    rows = []
    for name, label in BOTH.items():
        row = [label]
        for level in ("50", "2of4"):
            p = points.get(name.format(level))
            row += [cell(name.format(level)), f"{p['bytes_per_token']:,}" if p else ""]
        rows.append(row)
    table("recipe", ["50 %", "bytes a token", "2:4", "bytes a token"], rows)
    table("other", ["", "bytes a token"], [[label, cell(n), f"{points[n]['bytes_per_token']:,}"] for n, label in OTHER.items()
                                           if n in points])


if __name__ == "__main__":
    main()
