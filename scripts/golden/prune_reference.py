#!/usr/bin/env python3
"""Reference masks and weights of the pruning methods, in float64 from their definitions.

Writes tests/golden/pruning.json, which src/compress/methods/methods_test.cc compares with. Only numpy is
needed. The inputs come from an integer generator that the test has too, so the file holds results only.

SparseGPT is written here as plain optimal brain surgeon: the inverse Hessian is eliminated column by column
(Frantar and Alistarh, arXiv 2301.00774, eq. 3 and 4), without Cholesky factors and without lazy blocks, so that it
shares no algebra with the C++ code.
"""
import json
import pathlib

import numpy as np

MASK64 = (1 << 64) - 1


class SplitMix:
    def __init__(self, seed):
        self.state = seed

    def uniform(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK64
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
        z ^= z >> 31
        return (z >> 11) * 2.0**-53

    def bell(self):
        """Roughly normal, and exactly the same on every machine: sums of doubles only."""
        total = -2.0
        for _ in range(4):
            total += self.uniform()
        return total


def make_inputs(case):
    """W [rows, cols] and X [sequences * tokens, cols], float32 values."""
    rng = SplitMix(case["seed"])
    rows, cols = case["rows"], case["cols"]
    w = np.array([[rng.bell() for _ in range(cols)] for _ in range(rows)])
    if case["ties"]:
        w = np.round(w * 4) / 4
    n = case["sequences"] * case["tokens"]
    x = np.zeros((n, cols))
    for t in range(n):
        z = [rng.bell() for _ in range(cols)]
        for j in range(cols):
            x[t, j] = z[j] * (1 + j % 5) + 0.5 * z[j - 1 if j else 0] + 0.25 * z[0]
    x[:, case["dead"]] = 0
    return w.astype(np.float32).astype(np.float64), x.astype(np.float32).astype(np.float64)


def smallest(scores, count):
    """Mask of the `count` smallest of a flat array, ties to the lower index."""
    mask = np.zeros(scores.size, dtype=bool)
    mask[np.argsort(scores, kind="stable")[:count]] = True
    return mask


def groups_mask(scores, keep, of):
    mask = np.zeros(scores.shape, dtype=bool)
    for r in range(scores.shape[0]):
        for j in range(0, scores.shape[1], of):
            mask[r, j : j + of] = smallest(scores[r, j : j + of], of - keep)
    return mask


def magnitude(case, w, x):
    scores = np.abs(w)
    if case["pattern"]:
        mask = groups_mask(scores, *case["pattern"])
    else:
        mask = smallest(scores.ravel(), int(w.size * case["sparsity"])).reshape(w.shape)
    return mask, np.where(mask, 0, w)


def wanda_scores(case, w, x):
    return np.abs(w) * np.sqrt((x**2).sum(axis=0) / case["sequences"])


def wanda(case, w, x):
    scores = wanda_scores(case, w, x)
    if case["pattern"]:
        mask = groups_mask(scores, *case["pattern"])
    else:
        mask = np.stack([smallest(row, int(w.shape[1] * case["sparsity"])) for row in scores])
    return mask, np.where(mask, 0, w)


def sparsegpt(case, w, x, follow=None):
    """follow(columns, scores, mask) may replace the masks that are chosen (check_real_layers.py)."""
    w = w.copy()
    cols = w.shape[1]
    h = 2.0 / case["sequences"] * x.T @ x
    dead = np.diag(h) == 0
    h[dead, dead] = 1
    w[:, dead] = 0
    h += case["damping"] * np.mean(np.diag(h)) * np.eye(cols)

    # Row j of the inverse Hessian of the columns j.. given that the columns before j are fixed.
    inverse_rows = []
    inverse = np.linalg.inv(h)
    for j in range(cols):
        inverse_rows.append(inverse[j, j:].copy())
        inverse -= np.outer(inverse[:, j], inverse[j, :]) / inverse[j, j]
    d = np.array([row[0] for row in inverse_rows])

    mask = np.zeros(w.shape, dtype=bool)
    block = case["block_size"]
    for j in range(cols):
        width = case["pattern"][1] if case["pattern"] else block
        if j % width == 0:
            scores = w[:, j : j + width] ** 2 / d[j : j + width]
            if case["pattern"]:
                chosen = groups_mask(scores, *case["pattern"])
            else:
                chosen = smallest(scores.ravel(), int(scores.size * case["sparsity"])).reshape(scores.shape)
            columns = np.arange(j, j + scores.shape[1])
            mask[:, columns] = follow(columns, scores, chosen) if follow else chosen
        error = np.where(mask[:, j], w[:, j], 0) / d[j]
        w[:, j:] -= np.outer(error, inverse_rows[j])
        w[mask[:, j], j] = 0
    return mask, w


METHODS = {"magnitude": magnitude, "wanda": wanda, "sparsegpt": sparsegpt}


def case(method, rows, cols, seed, sparsity=0.0, pattern=None, dead=(), ties=False, block_size=128, damping=0.01):
    return dict(method=method, rows=rows, cols=cols, seed=seed, sparsity=sparsity, pattern=list(pattern or []),
                dead=list(dead), ties=ties, block_size=block_size, damping=damping, sequences=3, tokens=24)


CASES = [
    case("magnitude", 7, 33, 1, 0.5),
    case("magnitude", 6, 40, 2, 0.7, ties=True),
    case("magnitude", 5, 32, 3, pattern=(2, 4)),
    case("magnitude", 3, 24, 4, pattern=(5, 8), ties=True),
    case("wanda", 9, 37, 5, 0.5, dead=(3, 36)),
    case("wanda", 4, 50, 6, 0.7),
    case("wanda", 5, 40, 7, pattern=(2, 4)),
    case("wanda", 5, 40, 8, pattern=(4, 8), dead=(0, 1, 2, 3, 4, 17)),
    case("wanda", 5, 40, 9, pattern=(1, 4), ties=True),
    case("sparsegpt", 12, 40, 10, 0.5, block_size=16),
    case("sparsegpt", 9, 37, 11, 0.7, dead=(0, 20, 36), block_size=16),
    case("sparsegpt", 8, 30, 12, 0.5),
    case("sparsegpt", 6, 32, 13, pattern=(2, 4), block_size=8),
    case("sparsegpt", 6, 40, 14, pattern=(4, 8), dead=(9,), block_size=16),
    case("sparsegpt", 6, 40, 15, pattern=(1, 4), damping=0.1),
    case("sparsegpt", 1, 1, 16, 0.5),
]


def main():
    out = []
    for c in CASES:
        w, x = make_inputs(c)
        mask, new = METHODS[c["method"]](c, w, x)
        c = dict(c, mask=["".join("1" if v else "0" for v in row) for row in mask])
        if c["method"] == "sparsegpt":
            c["weights"] = [[float(f"{v:.12g}") for v in row] for row in new]
        out.append(c)
    path = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/pruning.json"
    lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in out)
    path.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
