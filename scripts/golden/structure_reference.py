#!/usr/bin/env python3
"""Reference decisions of the structural steps, in float64 from the authors' formulas.

Writes tests/golden/structure.json, which src/compress/structure/structure_test.cc compares with. Only numpy is
needed. Inputs come from the integer generator of prune_reference.py, which the test has too.

flap: WIFV scores, standardized by layer, one threshold (An et al., arXiv 2312.11983, lib/prune.py): Var(x_j) *
sum_i W_ij^2, squared for o_proj, heads averaged; here whole KV groups, of 2 query heads of 16 channels.
shortgpt: 1 - mean cosine of hidden states before and after a block (arXiv 2403.03853).
"""
import json
import pathlib

import numpy as np

from prune_reference import SplitMix

BLOCKS, HIDDEN, FFN, HEAD_DIM, KV_HEADS, QUERIES, TOKENS = 3, 64, 96, 16, 2, 2, 40


def bells(seed, rows, cols):
    rng = SplitMix(seed)
    return np.array([[rng.bell() for _ in range(cols)] for _ in range(rows)]).astype(np.float32)


def inputs(seed, cols):
    """Columns of different spread and mean."""
    spread = 1 + np.arange(cols) * 7 % 11
    return (bells(seed, TOKENS, cols) * spread.astype(np.float32) + (np.arange(cols) % 3).astype(np.float32)).astype(
        np.float64
    )


def standardize(m):
    return (m - m.mean()) / m.std(ddof=1)


def flap(ratio):
    return flap_kept(ratio, [(bells(100 + b, HIDDEN, HIDDEN).astype(np.float64), inputs(300 + b, HIDDEN),
                              bells(200 + b, HIDDEN, FFN).astype(np.float64), inputs(400 + b, FFN))
                             for b in range(BLOCKS)], KV_HEADS, QUERIES, HEAD_DIM)


def flap_kept(ratio, blocks, kv_heads, queries, head_dim):
    """blocks: o_proj and its inputs, down_proj and its inputs."""
    groups, neurons = [], []
    for o, o_inputs, down, down_inputs in blocks:
        wifv = o_inputs.var(axis=0) * (o**2).sum(axis=0)
        groups.append(standardize(wifv**2).reshape(kv_heads, -1).mean(axis=1))
        neurons.append(standardize(down_inputs.var(axis=0) * (down**2).sum(axis=0)))
    groups, neurons = np.array(groups), np.array(neurons)
    scores = np.concatenate([groups.ravel(), neurons.ravel()])
    cost = np.ones(scores.size)
    # A group's rows and columns against the 3 of a neuron: q and o of its query heads, k and v.
    cost[: groups.size] = (2 * queries + 2) * head_dim / 3
    order = np.argsort(-scores, kind="stable")
    total = np.cumsum(cost[order])
    threshold = scores[order][np.argmin(np.abs(total - cost.sum() * (1 - ratio)))]
    return dict(
        ratio=ratio,
        groups=[np.flatnonzero(g > threshold).tolist() for g in groups],
        neurons=[np.flatnonzero(n > threshold).tolist() for n in neurons],
    )


def shortgpt():
    scores = []
    for b in range(BLOCKS):
        before, change = bells(500 + b, TOKENS, HIDDEN), bells(600 + b, TOKENS, HIDDEN)
        after = (before + change * np.float32(0.25 * (1 + b * 2 % 3))).astype(np.float64)
        before = before.astype(np.float64)
        scores.append(float(f"{influence(before, after):.14g}"))
    return scores


def influence(before, after):
    cosine = (before * after).sum(axis=1) / np.linalg.norm(before, axis=1) / np.linalg.norm(after, axis=1)
    return 1 - cosine.mean()


def main():
    out = dict(flap=[flap(r) for r in (0.2, 0.4, 0.6)], shortgpt=shortgpt())
    path = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/structure.json"
    path.write_text(json.dumps(out, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
