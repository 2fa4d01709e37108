#!/usr/bin/env python3
"""Reference masks of RIA, Wanda's row-adaptive variant and DSnoT, in float64 from the authors' formulas.

Writes tests/golden/pruners.json, which src/compress/methods/pruners_test.cc compares with. Only numpy is needed. Inputs
are those of prune_reference.py. Sorting is stable where the authors leave it open, exactly int(n * s) weights go, and
DSnoT stops where its candidates end (see src/compress/methods/dsnot.cc).
"""
import itertools
import json
import pathlib

import numpy as np

from prune_reference import groups_mask, make_inputs, smallest


def norms(case, x):
    return np.sqrt((x**2).sum(axis=0) / case["sequences"])


def base_mask(case, scores, whole):
    if case["pattern"]:
        return groups_mask(scores, *case["pattern"])
    if whole:
        return smallest(scores.ravel(), int(scores.size * case["sparsity"])).reshape(scores.shape)
    return np.stack([smallest(row, int(scores.shape[1] * case["sparsity"])) for row in scores])


def ria_scores(case, w, x):
    a = np.abs(w)
    with np.errstate(invalid="ignore"):
        relative = a / a.sum(axis=0) + a / a.sum(axis=1, keepdims=True)
    relative[a == 0] = 0
    return relative * norms(case, x) ** case["options"].get("a", 0.5)


def ria(case, w, x):
    return {"mask": base_mask(case, ria_scores(case, w, x), case["options"].get("compare") != "row")}


def kept(scores, order, keep, of):
    scores = scores[:, order]
    return sum(scores[:, j : j + of][~groups_mask(scores[:, j : j + of], keep, of)].sum()
               for j in range(0, scores.shape[1], of))


def assignment(value):
    """The columns, one a row, whose values [n, n] have the largest sum: shortest augmenting paths (Jonker and Volgenant)."""
    cost, n = -value, len(value)
    row_price, col_price, row_of = np.zeros(n), np.zeros(n + 1), np.full(n + 1, -1)
    for row in range(n):
        row_of[n], column = row, n
        distance, before, done = np.full(n, np.inf), np.full(n, n), np.zeros(n + 1, dtype=bool)
        while row_of[column] >= 0:
            done[column] = True
            i = row_of[column]
            reduced = cost[i] - row_price[i] - col_price[:n]
            nearer = ~done[:n] & (reduced < distance)
            distance[nearer], before[nearer] = reduced[nearer], column
            column = int(np.argmin(np.where(done[:n], np.inf, distance)))
            step = distance[column]
            row_price[row_of[done]] += step
            col_price[done] -= step
            distance[~done[:n]] -= step
        while column != n:
            row_of[column] = row_of[before[column]]
            column = before[column]
    columns = np.empty(n, dtype=int)
    columns[row_of[:n]] = np.arange(n)
    return columns


def ria_order(case, w, x):
    """The order of the inputs, all of which may change places."""
    scores = ria_scores(case, w, x)
    keep, of = case["pattern"]
    cols = scores.shape[1]
    groups = cols // of
    best = np.arange(cols)
    before = kept(scores, best, keep, of)

    ranked = np.argsort(scores.sum(axis=0), kind="stable")
    dealt = np.zeros(cols, dtype=int)
    for slot in range(of):
        chunk = ranked[slot * groups : (slot + 1) * groups]
        dealt[slot::of] = chunk if slot % 2 == 0 else chunk[::-1]
    if kept(scores, dealt, keep, of) > before:
        best = dealt
    for slot in range(of if case["options"]["permute"] == "lsa" else 0):
        # All assignments of the inputs in this slot to groups, instead of an assignment solver.
        candidates = []
        for assignment in itertools.permutations(range(groups)):
            order = best.copy()
            order[slot::of] = best[slot::of][list(assignment)]
            candidates.append((kept(scores, order, keep, of), order))
        value, order = max(candidates, key=lambda c: c[0])
        if value > kept(scores, best, keep, of) * (1 + 1e-13):
            best = order
    return {"order": best, "kept_before": before, "kept_after": kept(scores, best, keep, of)}


def wanda_row_adaptive(case, w, x):
    scores = np.abs(w) * norms(case, x)
    ordered = np.sort(scores, axis=1)
    running = np.cumsum(ordered, axis=1)

    def count(alpha):
        return (running <= alpha * running[:, -1:]).sum(axis=1)

    alpha, low, high = 0.4, 0.0, 0.8
    reached = count(alpha).sum() / w.size
    while abs(reached - case["sparsity"]) > 0.001 and high - low >= 0.001:
        if reached > case["sparsity"]:
            alpha, high = (alpha + low) / 2, alpha
        else:
            alpha, low = (alpha + high) / 2, alpha
        reached = count(alpha).sum() / w.size
    mask = np.stack([smallest(row, n) for row, n in zip(scores, count(alpha))])
    return {"mask": mask, "warns": bool(abs(reached - case["sparsity"]) > 0.001)}


def dsnot(case, w, x):
    options = case["options"]
    wanda = np.abs(w) * norms(case, x)
    first = np.abs(w) if case["first"] == "magnitude" else wanda
    mask = base_mask(case, first, whole=case["first"] == "magnitude")
    score = np.abs(w) if options.get("score") == "magnitude" else wanda
    sequences = x.reshape(case["sequences"], case["tokens"], -1)
    s = sequences.sum(axis=1).mean(axis=0)
    var = sequences.var(axis=1).mean(axis=0)
    metric = w * s

    start = mask.copy()
    swaps = 0
    for r in range(w.shape[0]):
        error = metric[r][start[r]].sum()
        sign = np.sign(error)
        with np.errstate(invalid="ignore", divide="ignore"):
            key = metric[r] / var ** options.get("pow_of_var_regrowing", 1)
        grow = [j for j in np.argsort(key, kind="stable") if start[r, j] and metric[r, j] != 0]
        ranked = [j for j in np.argsort(score[r], kind="stable") if not start[r, j]]
        prune = {True: [j for j in ranked if metric[r, j] > 0], False: [j for j in ranked if metric[r, j] < 0]}
        available = set(ranked)
        for _ in range(options.get("max_cycle_time", 50)):
            if abs(error) <= options.get("update_threshold", 0.1) or not grow:
                break
            back = grow[-1 if error > 0 else 0]
            if (metric[r, back] > 0) != (error > 0):
                break
            grow.remove(back)
            if case["pattern"]:
                of = case["pattern"][1]
                group = [j for j in range(back - back % of, back - back % of + of) if j in available]
                if not group:
                    continue
                out = min(group, key=lambda j: (score[r, j], j))
            else:
                side = prune[bool(error < 0)]
                if not side:
                    break
                out = side.pop(0)
            after = error + metric[r, out] - metric[r, back]
            same_sign = case["pattern"] or not options.get("without_same_sign", False)
            if same_sign and np.sign(after) != sign:
                break
            available.discard(out)
            error = after
            mask[r, back] = False
            mask[r, out] = True
            swaps += 1
    assert (mask.sum(axis=1) == start.sum(axis=1)).all()
    return {"mask": mask, "swaps": swaps}


KINDS = {"ria": ria, "ria_order": ria_order, "wanda": wanda_row_adaptive, "dsnot": dsnot}


def case(kind, rows, cols, seed, sparsity=0.0, pattern=None, dead=(), ties=False, first="", tokens=24, **options):
    return dict(kind=kind, rows=rows, cols=cols, seed=seed, sparsity=sparsity, pattern=list(pattern or []),
                dead=list(dead), ties=ties, first=first, sequences=3, tokens=tokens, options=options)


CASES = [
    case("ria", 9, 37, 1, 0.5, dead=(3, 36)),
    case("ria", 6, 40, 2, 0.7, ties=True),
    case("ria", 9, 37, 3, 0.5, compare="row"),
    case("ria", 5, 40, 4, pattern=(2, 4), dead=(0, 1, 2, 3, 4, 17), permute="none"),
    case("ria", 8, 32, 5, 0.6, a=1.0),
    case("ria", 8, 32, 5, 0.6, a=0.0),
    case("ria_order", 12, 24, 6, pattern=(2, 4), permute="heuristic"),
    case("ria_order", 9, 24, 7, pattern=(1, 4), permute="heuristic"),
    case("ria_order", 9, 40, 23, pattern=(2, 4), dead=(0, 1, 2, 3, 12), permute="heuristic"),
    case("ria_order", 12, 24, 8, pattern=(2, 4), permute="lsa"),
    case("ria_order", 7, 40, 9, pattern=(4, 8), dead=(5, 6), permute="lsa"),
    case("ria_order", 3, 16, 10, pattern=(3, 4), permute="lsa"),
    case("wanda", 16, 96, 11, 0.5, variant="row_adaptive"),
    case("wanda", 12, 120, 12, 0.7, dead=(2, 3, 90), variant="row_adaptive"),
    case("wanda", 3, 20, 13, 0.5, variant="row_adaptive"),
    case("wanda", 2, 30, 14, 0.99, variant="row_adaptive"),
    case("dsnot", 10, 64, 15, 0.5, first="wanda", without_same_sign=True),
    case("dsnot", 10, 64, 16, 0.6, first="magnitude", dead=(7, 30), without_same_sign=True),
    case("dsnot", 6, 200, 17, 0.7, first="wanda", tokens=60, without_same_sign=True),
    case("dsnot", 10, 64, 15, 0.5, first="wanda"),
    case("dsnot", 10, 64, 15, 0.5, first="wanda", max_cycle_time=2, without_same_sign=True),
    case("dsnot", 10, 64, 15, 0.5, first="wanda", pow_of_var_regrowing=0.0, update_threshold=3.0, without_same_sign=True),
    case("dsnot", 10, 64, 18, pattern=(2, 4), first="wanda"),
    case("dsnot", 10, 64, 19, pattern=(4, 8), first="magnitude", score="magnitude", dead=(0, 9)),
    case("dsnot", 8, 48, 20, pattern=(1, 4), first="wanda"),
    case("dsnot", 8, 40, 21, 0.9, first="magnitude", ties=True, without_same_sign=True),
    case("dsnot", 4, 6, 22, 0.5, first="wanda", without_same_sign=True),
]


def main():
    out = []
    for c in CASES:
        w, x = make_inputs(c)
        result = KINDS[c["kind"]](c, w, x)
        if "mask" in result:
            result["mask"] = ["".join("1" if v else "0" for v in row) for row in result["mask"]]
        if "order" in result:
            result["order"] = [int(j) for j in result["order"]]
        out.append({**c, **result})
    path = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/pruners.json"
    path.write_text("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in out) + "\n]\n")


if __name__ == "__main__":
    main()
