#!/usr/bin/env python3
"""Reference sparsities of the allocators, in float64 from the authors' formulas.

Writes tests/golden/allocation.json, which src/compress/allocators/allocators_test.cc compares with. Only numpy is needed.
Weights and input norms come from an integer generator that the test has too, so the file holds results only.

OWL: arXiv 2310.05175, lib/prune_all.py. DLP: arXiv 2505.23807, get_dlp_ratios. AlphaPruning: arXiv 2410.10912,
lib/esd_utils.py (alpha_peak) and ww_sparsity (block_wise).
"""
import json
import pathlib

import numpy as np

from prune_reference import SplitMix

# Linears of a block: [rows, cols].
BLOCK = [(24, 20), (12, 20), (20, 24), (32, 20), (20, 32)]


def make_blocks(case):
    """Per block a list of (W, norms), float32 values."""
    rng = SplitMix(case["seed"])
    blocks = []
    for b in range(case["blocks"]):
        block = []
        for rows, cols in BLOCK:
            w = np.array([[rng.bell() for _ in range(cols)] for _ in range(rows)])
            # Heavier tails in later blocks; a column scale makes outliers.
            w = w * (1 + np.abs(w) * (b / case["blocks"]))
            norms = np.array([1 + 9 * (rng.uniform() < 0.02 * (b + 1)) + rng.uniform() for _ in range(cols)])
            block.append((w.astype(np.float32).astype(np.float64), norms))
        blocks.append(block)
    return blocks


def scores(block):
    return np.concatenate([(np.abs(w) * norms).ravel() for w, norms in block])


def owl_ratio(block, m):
    a = scores(block)
    return 100 * np.sum(a > m * a.mean()) / a.size


def owl(case, blocks):
    d = np.array([owl_ratio(block, case["M"]) for block in blocks])
    d = (d - d.min()) * (1 / (d.max() - d.min()) * case["lambda"] * 2)
    return 1 - (d - d.mean() + (1 - case["sparsity"]))


def owl_nm(case, blocks):
    """Weights pruned of every m."""
    keep, of = case["pattern"]
    d = np.array([owl_ratio(block, case["M"]) for block in blocks])
    d = (d - d.min()) * (1 / (d.max() - d.min()) * case["lambda"])
    return ((of - keep) - np.round(d - d.mean())) / of


def dlp(case, blocks):
    statistic = np.mean if case["statistic"] == "mean" else np.median
    s = np.array([np.abs(statistic(scores(block))) for block in blocks])
    imp = 1 - s / s.sum()
    imp = (imp - imp.min()) * (1 / (imp.max() - imp.min()) * case["alpha"] * 2)
    return 1 - (imp - imp.mean() + (1 - case["sparsity"]))


def alpha_peak(w, bins=100):
    eigs = np.sort(np.square(np.linalg.svd(w, compute_uv=False)))
    n_all = len(eigs)
    logs = np.log(eigs)
    log10 = np.log10(eigs)
    counts, edges = np.histogram(log10, bins=bins, range=(log10.min(), log10.max()))
    xmin2 = 10 ** edges[np.argmax(counts)]
    lowest, highest = np.log10(0.95 * xmin2), 1.5 * xmin2
    alphas, ds = np.zeros(n_all - 1), np.ones(n_all - 1)
    for i, xmin in enumerate(eigs[:-1]):
        if xmin < lowest:
            continue
        if xmin > highest:
            break
        n = float(n_all - i)
        alphas[i] = 1 + n / (logs[i:].sum() - n * logs[i])
        if alphas[i] > 1:
            ds[i] = np.max(np.abs(1 - (eigs[i:] / xmin) ** (1 - alphas[i]) - np.arange(n) / n))
    return alphas[np.argmin(ds)]


def alphapruning(case, blocks):
    metrics = np.array([np.mean([alpha_peak(w) for w, _ in block]) for block in blocks])
    s1, s2 = 1 - case["epsilon"], 1 + case["epsilon"]
    ratios = (metrics - metrics.min()) / (metrics.max() - metrics.min()) * (s2 - s1) + s1
    sizes = np.array([sum(w.size for w, _ in block) for block in blocks])
    return ratios * (sizes.sum() * case["sparsity"] / (sizes * ratios).sum())


CASES = [
    dict(method="owl", seed=1, blocks=4, sparsity=0.7, options={"M": 5, "lambda": 0.08}),
    dict(method="owl", seed=2, blocks=6, sparsity=0.6, options={"M": 3, "lambda": 0.2}),
    dict(method="owl", seed=3, blocks=5, pattern=[4, 8], options={"M": 6, "lambda": 2}),
    dict(method="owl", seed=4, blocks=7, pattern=[3, 8], options={"M": 4, "lambda": 3}),
    dict(method="dlp", seed=5, blocks=4, sparsity=0.7, options={"alpha": 0.15, "statistic": "mean"}),
    dict(method="dlp", seed=6, blocks=3, sparsity=0.5, options={"alpha": 0.1, "statistic": "median"}),
    dict(method="alphapruning", seed=7, blocks=4, sparsity=0.7, options={"epsilon": 0.3}),
    dict(method="alphapruning", seed=8, blocks=5, sparsity=0.5, options={"epsilon": 0.5}),
]


def main():
    results = []
    for case in CASES:
        flat = {**case, **case["options"]}
        blocks = make_blocks(case)
        method = {"owl": owl_nm if "pattern" in case else owl, "dlp": dlp, "alphapruning": alphapruning}[case["method"]]
        results.append({**case, "allocated": method(flat, blocks).tolist()})
    path = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/allocation.json"
    path.write_text(json.dumps({"block": BLOCK, "cases": results}, indent=1) + "\n")
    print(f"{path}: {path.stat().st_size} bytes")
    for r in results:
        print(r["method"], r.get("sparsity", r.get("pattern")), np.round(r["allocated"], 4))


if __name__ == "__main__":
    main()
