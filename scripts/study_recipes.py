#!/usr/bin/env python3
"""Writes the recipes behind docs/choosing.md: every method at every pattern, allocations, quantizers and combinations.

  scripts/study_recipes.py --calibration text.txt --out recipes
  harrow study recipes MODEL --text held-back.txt -o out

The allocation by measured losses needs the measurement of the model first:

  harrow sensitivity MODEL --calibration text.txt --mode concat --text part-of-it.txt --method alps \
    --sparsity 0.4,0.6,0.75,0.85 -o json > sensitivity.json
  scripts/study_recipes.py --calibration text.txt --sensitivity sensitivity.json --out recipes
"""
import argparse
import json
import pathlib

LEVELS = {"50": {"sparsity": 0.5}, "60": {"sparsity": 0.6}, "70": {"sparsity": 0.7}, "4of8": {"pattern": "4:8"},
          "2of4": {"pattern": "2:4"}, "16x1": {"sparsity": 0.5, "pattern": "16x1"},
          "16x16": {"sparsity": 0.5, "pattern": "16x16"}}
INT8, INT4 = {"format": "int8"}, {"format": "int4", "group": 64}


def recipes(sensitivity):
    """Name -> recipe without its calibration; `sensitivity`: a file of `harrow sensitivity`, or None."""
    out = {}
    for level, target in LEVELS.items():
        for method in ("magnitude", "wanda", "ria", "sparsegpt", "alps"):
            out[f"{method}-{level}"] = {"steps": [{"method": method, **target}]}
        out[f"wanda-reconstruct-{level}"] = {"steps": [{"method": "wanda", **target}, {"method": "reconstruct"}]}
    for level in ("60", "70"):
        target = LEVELS[level]
        for allocation in ("owl", "dlp", "alphapruning"):
            for method in ("wanda", "sparsegpt", "alps"):
                out[f"{method}-{allocation}-{level}"] = {"allocation": {"method": allocation},
                                                         "steps": [{"method": method, **target}]}
        if sensitivity:
            by_loss = {"method": "sensitivity", "file": sensitivity, "metric": "kl"}
            for method in ("sparsegpt", "alps"):
                out[f"{method}-sensitivity-{level}"] = {"allocation": by_loss, "steps": [{"method": method, **target}]}
            out[f"alps-sensitivity-block-{level}"] = {"allocation": by_loss,
                                                      "steps": [{"method": "alps", **target}, {"method": "block_reconstruct"}]}
        out[f"alps-dense-{level}"] = {"steps": [{"method": "alps", **target},
                                                {"method": "reconstruct", "target": "dense"}]}
        out[f"alps-block-{level}"] = {"steps": [{"method": "alps", **target}, {"method": "block_reconstruct"}]}
        out[f"alps-owl-block-{level}"] = {"allocation": {"method": "owl"},
                                          "steps": [{"method": "alps", **target}, {"method": "block_reconstruct"}]}
        out[f"wanda-block-{level}"] = {"steps": [{"method": "wanda", **target}, {"method": "block_reconstruct"}]}
    for level in ("50", "60", "70"):
        out[f"lasso-{level}"] = {"steps": [{"method": "lasso", **LEVELS[level]}]}
    for group in (32, 64, 128):
        for symmetric in (True, False):
            kind = f"int4-{'sym' if symmetric else 'asym'}-g{group}"
            grid = {"format": "int4", "group": group, "symmetric": symmetric}
            out[f"rtn-{kind}"] = {"steps": [{"method": "rtn", "embed": False, **grid}]}
            for method in ("gptq", "awq"):
                out[f"{method}-{kind}"] = {"steps": [{"method": method, **grid}]}
    for level in ("50", "2of4"):
        target = LEVELS[level]
        prune = {"method": "sparsegpt", **target}
        out[f"sparsegpt-{level}-int8"] = {"steps": [prune, {"method": "rtn", "embed": False, **INT8}]}
        out[f"sparsegpt-{level}-then-rtn-int4"] = {"steps": [prune, {"method": "rtn", "embed": False, **INT4}]}
        out[f"sparsegpt-{level}-then-gptq-int4"] = {"steps": [prune, {"method": "gptq", **INT4}]}
        joint = {**prune, "quantize": INT4}
        out[f"sparsegpt-{level}-joint-int4"] = {"steps": [joint]}
        out[f"sparsegpt-{level}-joint-int4-lowrank"] = {"steps": [joint, {"method": "lowrank_correction", "ratio": 0.1}]}
        out[f"alps-{level}-then-gptq-int4"] = {"steps": [{"method": "alps", **target}, {"method": "gptq", **INT4}]}
    out["alps-35-then-gptq-int4-g128"] = {"steps": [{"method": "alps", "sparsity": 0.35},
                                                    {"method": "gptq", "format": "int4", "group": 128}]}
    for ratio in (0.5, 0.7):
        out[f"asvd-{ratio}"] = {"steps": [{"method": "asvd", "ratio": ratio}]}
        out[f"svd_llm-{ratio}"] = {"steps": [{"method": "svd_llm", "ratio": ratio}]}
    out["svd_llm-residual-60"] = {"steps": [{"method": "svd_llm", "ratio": 0.1, "residual": True},
                                            {"method": "sparsegpt", **LEVELS["60"]}]}
    out["flap-0.2"] = {"structure": [{"method": "flap", "ratio": 0.2}]}
    out["shortgpt-1"] = {"structure": [{"method": "shortgpt", "drop": 1}]}
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--sensitivity", type=lambda path: str(pathlib.Path(path).resolve()))
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    folder = pathlib.Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    calibration = {"file": str(pathlib.Path(args.calibration).resolve()), "mode": "concat", "samples": args.samples}
    for name, recipe in recipes(args.sensitivity).items():
        needs = any(step["method"] not in ("magnitude", "rtn") for step in recipe.get("steps", ())) or "structure" in recipe
        whole = {**({"calibration": calibration} if needs else {}), **recipe}
        (folder / f"{name}.yaml").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")  # JSON is YAML


if __name__ == "__main__":
    main()
