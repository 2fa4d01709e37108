#!/usr/bin/env python3
"""Reference codes, grids and scales of the quantizers, in float64 from their definitions.

Writes tests/golden/quantization.json, which src/compress/methods/quantizers_test.cc compares with. Only numpy is needed. The
inputs come from the generator of prune_reference.py, which the test has too, so the file holds results only.

GPTQ and the joint pass are plain optimal brain surgeon: the inverse Hessian is eliminated column by column, without
Cholesky factors and without lazy blocks. AWQ measures its losses on the activations themselves, not through a Hessian. So
neither shares algebra with the C++ code. Cases are such that no rounding is close to a tie, which this script checks.
"""
import json
import pathlib

import numpy as np
from prune_reference import groups_mask, magnitude, make_inputs, smallest

RANGES = {"i8": (-127, 127), "i4": (-8, 7), "u4": (0, 15)}
# w / scale is at most 127 and the C++ code divides in float32: 127 * 2^-24 < 1e-5.
TIE = 1e-5


def bf16(value, up=False):
    """The nearest BF16 (ties to even) of a float32, or the smallest that is not below."""
    bits = int(np.float32(value).view(np.uint32))
    if up:
        bits = (bits >> 16) + (1 if bits & 0xFFFF else 0)
    else:
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return float(np.array([(bits << 16) & 0xFFFFFFFF], dtype=np.uint32).view(np.float32)[0])


def grid_of(values, w):
    """docs/formats: scale and zero point of round-to-nearest for the weights of a group."""
    low, high = np.float32(min(w.min(initial=0), 0)), np.float32(max(w.max(initial=0), 0))
    if values == "i8":
        return bf16(max(-low, high) / np.float32(127), up=True), 0.0
    if values == "i4":
        return bf16(np.float64(high if high >= -low else low) / -8), 0.0
    scale = bf16((np.float64(high) - np.float64(low)) / 15)
    return scale, float(min(np.rint(-low / scale), 15)) if scale > 0 else 0.0


def nearest(values, grid, w, exact=True):
    """Codes of w, and the values they stand for."""
    scale, zero = grid
    w = np.asarray(w)
    if scale == 0:
        return np.full(w.shape, zero), np.zeros(w.shape)
    ratio = w / scale
    if exact:
        assert np.all(np.abs(ratio - np.floor(ratio) - 0.5) > TIE), "close to a tie: take another seed"
    code = np.clip(np.rint(ratio) + zero, *RANGES[values])
    return code, (code - zero) * scale


def damped_hessian(case, w, x):
    w = w.copy()
    h = 2.0 / case["sequences"] * x.T @ x
    dead = np.diag(h) == 0
    h[dead, dead] = 1
    w[:, dead] = 0
    diagonal = np.diag(h).copy()
    h += case["damping"] * np.mean(diagonal) * np.eye(w.shape[1])
    return w, h, diagonal


def obs(case, w, x, follow=None):
    """GPTQ (no sparsity or pattern, perhaps with a mask) and the joint pass. Returns mask, codes, grids.

    `follow` may replace what is chosen: follow(columns, scores, mask), follow.codes(column, w, grids, codes).
    """
    values, group, block = case["values"], case["group"], case["block_size"]
    mask = np.zeros(w.shape, dtype=bool)
    if case["masked"]:
        mask, w = magnitude(dict(case, sparsity=case["masked"], pattern=None), w, x)
    w, h, diagonal = damped_hessian(case, w, x)
    rows, cols = w.shape
    order = np.arange(cols)
    if case["act_order"]:
        order = np.argsort(-diagonal, kind="stable")
    groups = -(-cols // group)
    grids = [[None] * groups for _ in range(rows)]
    if case["act_order"]:
        for r in range(rows):
            for g in range(groups):
                s = slice(g * group, (g + 1) * group)
                grids[r][g] = grid_of(values, w[r, s][~mask[r, s]])
    inverse = np.linalg.inv(h[np.ix_(order, order)])
    codes = np.zeros(w.shape)
    w = w[:, order]
    mask = mask[:, order]
    for j in range(cols):
        scores_of = lambda width, inv: w[:, j : j + width] ** 2 / conditional(inv, width)
        width = 0
        if case["pattern"] and j % case["pattern"][1] == 0:
            keep, of = case["pattern"]
            width = of
            scores = scores_of(of, inverse)
            mask[:, j : j + of] = groups_mask(scores, keep, of)
        elif case["sparsity"] and j % block == 0:
            width = min(block, cols - j)
            scores = scores_of(width, inverse)
            if case["tile"]:
                height, breadth = case["tile"]
                sums = scores.reshape(rows // height, height, width // breadth, breadth).sum(axis=(1, 3))
                tiles = smallest(sums.ravel(), int(sums.size * case["sparsity"])).reshape(sums.shape)
                mask[:, j : j + width] = tiles.repeat(height, axis=0).repeat(breadth, axis=1)
            else:
                mask[:, j : j + width] = smallest(scores.ravel(), int(scores.size * case["sparsity"])).reshape(scores.shape)
        if width and follow:
            mask[:, j : j + width] = follow(order[j : j + width], scores, mask[:, j : j + width])
        if not case["act_order"] and j % group == 0:
            for r in range(rows):
                s = slice(j, j + group)
                grids[r][j // group] = grid_of(values, w[r, s][~mask[r, s]])
        q = np.zeros(rows)
        for r in range(rows):
            grid = grids[r][order[j] // group]
            codes[r, order[j]] = grid[1]
            if not mask[r, j]:
                codes[r, order[j]], q[r] = nearest(values, grid, w[r, j], exact=follow is None)
        if follow:
            column_grids = [grids[r][order[j] // group] for r in range(rows)]
            codes[:, order[j]] = follow.codes(order[j], w[:, j], column_grids, codes[:, order[j]], mask[:, j])
            q = np.array([(code - zero) * scale for code, (scale, zero) in zip(codes[:, order[j]], column_grids)])
        error = (w[:, j] - q) / inverse[0, 0]
        w[:, j:] -= np.outer(error, inverse[0])
        inverse = (inverse - np.outer(inverse[:, 0], inverse[0]) / inverse[0, 0])[1:, 1:]
    original = np.zeros(mask.shape, dtype=bool)
    original[:, order] = mask
    return original, codes, grids


def conditional(inverse, width):
    """The inverse Hessian's diagonal for the next `width` columns, each given that those before it are fixed."""
    out = []
    inverse = inverse.copy()
    for _ in range(width):
        out.append(inverse[0, 0])
        inverse = (inverse - np.outer(inverse[:, 0], inverse[0]) / inverse[0, 0])[1:, 1:]
    return np.array(out)


def rtn(values, group, w):
    out = np.zeros(w.shape)
    for r in range(w.shape[0]):
        for g in range(0, w.shape[1], group):
            part = w[r, g : g + group]
            out[r, g : g + group] = nearest(values, grid_of(values, part), part, exact=False)[1]
    return out


def awq_scales(case, weights, x):
    """auto_scale.py: for each ratio the scales of an input that `weights` share, and the loss."""
    mean = np.abs(x).mean(axis=0)
    live = mean > 0
    losses, candidates = [], []
    for i in range(20):
        scales = np.ones(mean.shape)
        scales[live] = np.maximum(mean[live] ** (i / 20), 1e-4)
        scales[live] /= np.sqrt(scales[live].max() * scales[live].min())
        errors = [rtn(case["values"], case["group"], w * scales) / scales - w for w in weights]
        losses.append(sum(float(((x @ error.T) ** 2).sum()) for error in errors))
        candidates.append(scales)
    return losses, candidates


def awq(case, w, x):
    """Scales of the inputs, then codes and grids of the scaled and clipped weights."""
    losses, candidates = awq_scales(case, [w], x)
    best = int(np.argmin(losses))
    second = sorted(losses)[1]
    assert losses[best] < second * (1 - 1e-6), "two ratios are as good: take another seed"
    scales = candidates[best]
    return (best, scales, *awq_clip(case, (w * scales).astype(np.float32).astype(np.float64), x / scales))


def awq_clip(case, w, x, exact=True):
    """auto_clip.py."""
    values, group = case["values"], case["group"]
    rows, cols = w.shape
    codes = np.zeros(w.shape)
    grids = [[None] * -(-cols // group) for _ in range(rows)]
    for r in range(rows):
        for g in range(0, cols, group):
            part, inputs = w[r, g : g + group], x[:, g : g + group]
            largest = np.abs(part).max()
            tried = []
            for i in range(10):
                limit = largest * (1 - i / 20)
                clipped = np.clip(part, -limit, limit)
                grid = grid_of(values, clipped)
                code, value = nearest(values, grid, clipped, exact=False)
                tried.append((float(((inputs @ (value - part)) ** 2).mean()), i, code, grid))
            tried.sort(key=lambda t: t[:2])
            if exact and tried[0][0] > 0:
                # Different clips may round to the same codes.
                rival = next((t for t in tried if t[3] != tried[0][3] or np.any(t[2] != tried[0][2])), None)
                assert rival is None or rival[0] > tried[0][0] * (1 + 1e-6), "two clips are as good: take another seed"
            codes[r, g : g + group] = tried[0][2]
            grids[r][g // group] = tried[0][3]
    return codes, grids


def case(method, rows, cols, seed, values="i4", group=128, act_order=False, sparsity=0.0, pattern=None, tile=None,
         masked=0.0, dead=(), block_size=128, damping=0.01, tokens=24):
    return dict(method=method, rows=rows, cols=cols, seed=seed, values=values, group=group, act_order=act_order,
                sparsity=sparsity, pattern=list(pattern or []), tile=list(tile or []), masked=masked, dead=list(dead),
                ties=False, block_size=block_size, damping=damping, sequences=3, tokens=tokens)


CASES = [
    case("gptq", 4, 256, 101, dead=(3, 130)),
    case("gptq", 4, 256, 102, act_order=True, dead=(3, 130)),
    case("gptq", 4, 256, 103, "u4"),
    case("gptq", 4, 256, 104, "u4", act_order=True),
    case("gptq", 3, 160, 105, "i4", 32),
    case("gptq", 3, 150, 106, "u4", 64),
    case("gptq", 3, 160, 107, "i4", 64, block_size=32, act_order=True),
    case("gptq", 3, 128, 108, "i8", 32),
    case("gptq", 2, 200, 109, "i8", 128, act_order=True),
    case("gptq", 4, 128, 110, "i4", 64, masked=0.5),
    case("gptq", 4, 128, 111, "u4", 32, masked=0.5, act_order=True, dead=(7,)),
    case("sparsegpt", 5, 160, 112, "i4", 32, sparsity=0.5, dead=(20,)),
    case("sparsegpt", 5, 256, 113, "u4", 128, sparsity=0.6),
    case("sparsegpt", 4, 128, 114, "i4", 64, pattern=(2, 4)),
    case("sparsegpt", 4, 128, 115, "i8", 32, pattern=(4, 8)),
    case("sparsegpt", 32, 64, 116, "u4", 32, sparsity=0.5, tile=(16, 1), block_size=32),
    case("awq", 6, 128, 117, "i4", 32),
    case("awq", 6, 128, 118, "u4", 64, dead=(5, 90)),
    case("awq", 4, 128, 119, "i8", 128),
]

CODE = "0123456789abcdef"


def code_text(values, code):
    offset = {"i8": 128, "i4": 8, "u4": 0}[values]
    return "".join(f"{int(v) + offset:02x}" if values == "i8" else CODE[int(v) + offset] for v in code)


def main():
    out = []
    for c in CASES:
        w, x = make_inputs(c)
        c = dict(c)
        if c["method"] == "awq":
            best, scales, codes, grids = awq(c, w, x)
            c["ratio"] = best
            c["input_scales"] = [float(f"{v:.15g}") for v in scales]
        else:
            mask, codes, grids = obs(c, w, x)
            c["mask"] = ["".join("1" if v else "0" for v in row) for row in mask]
        c["codes"] = [code_text(c["values"], row) for row in codes]
        c["scales"] = [[g[0] for g in row] for row in grids]
        c["zeros"] = [[g[1] for g in row] for row in grids] if c["values"] == "u4" else []
        out.append(c)
    path = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/quantization.json"
    lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in out)
    path.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
