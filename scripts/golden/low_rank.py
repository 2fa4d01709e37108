#!/usr/bin/env python3
"""Reference products of the low-rank methods, in float64 from their definitions.

Writes tests/golden/low_rank.json, which src/compress/methods/low_rank_test.cc compares with. Only numpy is needed.
Inputs are multiples of 1/64, so that they are short in the file and exact in float32.

svd_llm: S = lower Cholesky factor of X^T X, svd(W S), truncated, times S^-1 (arXiv 2403.07378).
asvd:    S = diag(mean |x|^alpha + 1e-6), svd(W S), truncated, times S^-1 (arXiv 2312.05821).
lowrank_correction: the same for W - pruned W, with either S (arXiv 2410.09615 has the diagonal one).
Factors are unique up to sign only, so their products are written.
"""
import json
import pathlib

import numpy as np


def scaling(case, x):
    if case["scaling"] == "hessian":
        return np.linalg.cholesky(x.T @ x)
    return np.diag(np.abs(x).mean(axis=0) ** case["alpha"] + 1e-6)


def factors(case, m, x):
    s = scaling(case, x)
    u, values, vt = np.linalg.svd(m @ s, full_matrices=False)
    r = case["rank"]
    return u[:, :r] * values[:r], vt[:r] @ np.linalg.inv(s)


def halve(w):
    """Magnitude pruning of half of the weights, ties to the lower index."""
    pruned = w.copy().ravel()
    pruned[np.argsort(np.abs(pruned), kind="stable")[: pruned.size // 2]] = 0
    return pruned.reshape(w.shape)


CASES = [
    dict(method="svd_llm", rows=8, cols=20, rank=3, scaling="hessian"),
    dict(method="svd_llm", rows=20, cols=8, rank=3, scaling="hessian"),
    dict(method="svd_llm", rows=9, cols=9, rank=4, scaling="hessian"),
    dict(method="asvd", rows=8, cols=20, rank=3, scaling="diagonal", alpha=0.5),
    dict(method="asvd", rows=20, cols=8, rank=5, scaling="diagonal", alpha=0.5),
    dict(method="lowrank_correction", rows=12, cols=16, rank=2, scaling="hessian"),
    dict(method="lowrank_correction", rows=16, cols=12, rank=2, scaling="diagonal", alpha=1.0),
]


def main():
    rng = np.random.default_rng(0)
    out = []
    for case in CASES:
        w = np.round(rng.normal(size=(case["rows"], case["cols"])) * 64) / 64
        mix = rng.normal(size=(case["cols"], case["cols"])) * 0.4 + np.diag(1.0 + np.arange(case["cols"]) % 4)
        x = np.round(rng.normal(size=(48, case["cols"])) @ mix * 64) / 64
        m = w - halve(w) if case["method"] == "lowrank_correction" else w
        b, a = factors(case, m, x)
        result = b @ a
        out.append(dict(case, w=w.tolist(), x=x.tolist(),
                        product=[[float(f"{v:.12g}") for v in row] for row in result]))
    path = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/low_rank.json"
    lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in out)
    path.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
