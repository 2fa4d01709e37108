#!/usr/bin/env python3
"""Reference results of ALPS, of least squares on a given support and of the Lasso, in float64 from their formulas.

Writes tests/golden/reconstruction.json, which src/compress/methods/reconstruction_test.cc compares with. Only numpy is
needed; inputs come from the generator of prune_reference.py, so the file holds results only.

ALPS follows the formulas of arXiv 2406.07831, section 3, with the primal, the projection and the dual kept apart, the inverse
by np.linalg.inv for every penalty and unpreconditioned conjugate gradients in the scaled coordinates. Least squares are one
np.linalg.solve a row. The Lasso is solved by cyclic coordinate descent. None of it shares algebra with the C++ code.
"""
import json
import pathlib

import numpy as np

from prune_reference import case, make_inputs, smallest, wanda


def damped(x, sequences, damping):
    h = 2.0 / sequences * x.T @ x
    return h + damping * np.mean(np.diag(h)) * np.eye(h.shape[0])


def project(case, values):
    """Mask of what goes: the smallest squares, within the pattern."""
    scores = values**2
    rows, cols = scores.shape
    if case["pattern"]:
        keep, of = case["pattern"]
        groups = scores.reshape(-1, of)
        return np.stack([smallest(g, of - keep) for g in groups]).reshape(rows, cols)
    if case["block"]:
        r, c = case["block"]
        sums = scores.reshape(rows // r, r, cols // c, c).sum(axis=(1, 3))
        gone = smallest(sums.ravel(), int(sums.size * case["sparsity"])).reshape(sums.shape)
        return np.kron(gone, np.ones((r, c))).astype(bool)
    return smallest(scores.ravel(), int(scores.size * case["sparsity"])).reshape(rows, cols)


def conjugate_gradients(n, c, mask, b, iterations):
    """Rows of b towards b N = c on the support."""
    r = np.where(mask, 0, c - b @ n)
    p = r.copy()
    rr = (r * r).sum(axis=1, keepdims=True)
    for _ in range(iterations):
        q = p @ n
        with np.errstate(invalid="ignore", divide="ignore"):
            a = np.nan_to_num(rr / (p * q).sum(axis=1, keepdims=True))
            b = b + a * p
            r = np.where(mask, 0, r - a * q)
            after = (r * r).sum(axis=1, keepdims=True)
            p = r + np.nan_to_num(after / rr) * p
        rr = after
    return b


def alps(case, w, x):
    h = damped(x, case["sequences"], case["damping"])
    scale = np.sqrt(np.diag(h))
    n = h / np.outer(scale, scale)
    b0 = w * scale
    c = b0 @ n
    rho, grown = 0.1, False
    mask0 = project(case, b0)
    kept = np.sum(~mask0)
    d = np.where(mask0, 0, b0)
    v = np.zeros_like(b0)
    seen = mask0
    for i in range(300):
        b = (c - v + rho * d) @ np.linalg.inv(n + rho * np.eye(len(n)))
        mask = project(case, b + v / rho)
        d = np.where(mask, 0, b + v / rho)
        v = v + rho * (b - d)
        if (i + 1) % 3:
            continue
        changed = np.sum(mask != seen)
        seen = mask
        if changed / kept > 0.1:
            rho, grown = rho * 1.3, True
        elif changed / kept > 0.005:
            rho, grown = rho * 1.2, True
        elif changed and grown:
            rho *= 1.1
        elif changed:
            rho /= 5
            b, d, v = b0, np.where(mask0, 0, b0), np.zeros_like(b0)
        elif grown:
            break
        else:
            rho /= 5
        rho = min(rho, 1e6)
        if i >= 30 and changed / kept < 3e-4:
            break
    mask = project(case, b)
    b = conjugate_gradients(n, c, mask, np.where(mask, 0, b), 10)
    return dict(mask=mask, weights=b / scale, iterations=i + 1)


def reconstruct(case, w, x):
    """Least squares on the support that Wanda leaves."""
    mask, _ = wanda(case, w, x)
    return least_squares(case, w, x, mask)


def least_squares(case, w, x, mask):
    h = damped(x, case["sequences"], case["damping"])
    new = np.zeros_like(w)
    for r in range(w.shape[0]):
        s = np.flatnonzero(~mask[r])
        new[r, s] = np.linalg.solve(h[np.ix_(s, s)], h[s] @ w[r])
    return dict(mask=mask, weights=new)


def coordinate_descent(n, c, lam, b, tolerance):
    """min b N b^T / 2 - b c^T + lam |b| for each row, N of unit diagonal."""
    g = b @ n - c
    for _ in range(100000):
        moved = 0.0
        for j in range(b.shape[1]):
            t = b[:, j] - g[:, j]
            step = np.sign(t) * np.maximum(np.abs(t) - lam, 0) - b[:, j]
            if step.any():
                b[:, j] += step
                g += np.outer(step, n[j])
                moved = max(moved, np.abs(step).max())
        if moved < tolerance:
            return b
    raise SystemExit("coordinate descent does not converge")


def lasso(case, w, x, tolerance=1e-13):
    """The Lasso whose penalty leaves exactly the wanted number of weights, then least squares on its support."""
    h = damped(x, case["sequences"], case["damping"])
    scale = np.sqrt(np.diag(h))
    n = h / np.outer(scale, scale)
    c = w * scale @ n
    groups = [[r] for r in range(len(w))] if case["compare"] == "row" else [list(range(len(w)))]
    mask = np.ones(w.shape, dtype=bool)
    for rows in groups:
        size = len(rows) * w.shape[1]
        wanted = size - int(size * case["sparsity"])
        low, high = 0.0, np.abs(c[rows]).max()
        b = np.zeros_like(w)
        for _ in range(100):
            lam = (low + high) / 2
            b[rows] = coordinate_descent(n, c[rows], lam, b[rows], tolerance)
            count = np.count_nonzero(b[rows])
            if count == wanted:
                break
            low, high = (lam, high) if count > wanted else (low, lam)
        else:
            raise SystemExit("no penalty leaves exactly as many weights: choose another seed")
        mask[rows] = b[rows] == 0
    return least_squares(case, w, x, mask)


METHODS = {"alps": alps, "reconstruct": reconstruct, "lasso": lasso}


def extended(*args, block=(), compare="", **kwargs):
    return dict(case(*args, **kwargs), block=list(block), compare=compare)


CASES = [
    extended("alps", 12, 40, 20, 0.5),
    extended("alps", 9, 37, 21, 0.7, dead=(0, 20, 36)),
    extended("alps", 20, 30, 22, 0.9, damping=0.1),
    extended("alps", 8, 40, 23, pattern=(2, 4)),
    extended("alps", 8, 40, 24, pattern=(4, 8), dead=(9,)),
    extended("alps", 16, 32, 25, 0.5, block=(4, 4)),
    extended("alps", 32, 24, 26, 0.6, block=(16, 1)),
    extended("alps", 1, 1, 27, 0.5),
    extended("reconstruct", 12, 40, 30, 0.6),
    extended("reconstruct", 9, 37, 31, 0.8, dead=(0, 20, 36), damping=0.001),
    extended("reconstruct", 8, 40, 32, pattern=(2, 4)),
    extended("lasso", 12, 40, 40, 0.5, compare="layer"),
    extended("lasso", 6, 36, 41, 0.7, compare="row"),
    extended("lasso", 10, 30, 42, 0.8, compare="layer", dead=(3,)),
]


def main():
    out = []
    for c in CASES:
        w, x = make_inputs(c)
        result = METHODS[c["method"]](c, w, x)
        mask = result["mask"]
        c = dict(c, mask=["".join("1" if v else "0" for v in row) for row in mask])
        c["weights"] = [[float(f"{v:.11g}") for v in row[~gone]] for row, gone in zip(result["weights"], mask)]
        if "iterations" in result:
            c["iterations"] = result["iterations"]
        out.append(c)
    path = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/reconstruction.json"
    lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in out)
    path.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
