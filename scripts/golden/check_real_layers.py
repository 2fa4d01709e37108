#!/usr/bin/env python3
"""Checks what each method makes of the linears of a real block against the float64 references of this folder.

    check_real_layers.py --harrow build/release/harrow --data ../shared/data --work build/layers [--only METHOD ...]

For TinyStories-656K and babyllama-105 one block is compressed by `harrow compress`, once a case. The inputs of its linears
are computed here from the token ids that Harrow calibrated on (own forward pass, check_masks.py), and the references are
given these inputs and the real weights. Exit code 1 on a difference, 77 (skipped) where numpy or the data is missing.

Harrow's activations are float32, so a decision may differ where the reference itself is undecided at that precision, and
weights differ by what that does to them. How much that is gets measured, not chosen: every reference is evaluated a second
time on inputs from the same forward pass in float32. SLACK times the largest change that this makes, of a score relative
to itself or of a weight of the layer, is the bound: a near-tie lies within it of its threshold, a weight within it of
its reference (and half a unit in the last place of the float32 in which it is stored). Everything else is wrong.

Methods that decide column after column are followed: Harrow's choice is judged, and then applied, so that one near-tie
does not make all later columns incomparable.
"""
import argparse
import functools
import json
import pathlib
import subprocess
import sys
import time

try:
    import numpy as np
except ImportError:
    print("check_real_layers: skipped, Python has no numpy (Debian: python3-numpy)")
    sys.exit(77)

import allocation_reference
import low_rank
import prune_reference
import pruner_reference
import quant_reference
import reconstruction_reference
import structure_reference
from check_masks import LINEARS, Block, load
from prune_reference import groups_mask, smallest

# The float32 forward pass here and Harrow's differ in the order of sums: two samples of the same noise.
SLACK = 16
SEQUENCES, TOKENS, BLOCK = 8, 256, 1
HALF_ULP = 2.0**-24


class Layer:
    """A linear before and after; x and x32 [sequences * tokens, cols] are its inputs in either precision."""

    def __init__(self, name, w, new, x, x32):
        self.name, self.w, self.new, self.x, self.x32 = name, w, new, x, x32


class Verdict:
    def __init__(self):
        self.weights = self.near_ties = self.wrong = self.miscounted = 0
        self.worst_weight = 0.0  # of the bound
        self.notes = []

    def mask(self, scores, noise, expected, pruned):
        """One set of competing weights, flat. `noise` is relative; 0 where no activation takes part."""
        self.weights += scores.size
        self.miscounted += int(expected.sum() != pruned.sum())
        different = expected != pruned
        if different.any():
            # The threshold lies between the last that goes and the first that stays.
            threshold = (scores[expected].max() + scores[~expected].min()) / 2
            ties = np.abs(scores[different] - threshold) <= noise * threshold
            self.near_ties += int(ties.sum())
            self.wrong += int((~ties).sum())

    def values(self, new, reference, bound):
        """Elements outside the bound [like new, or a number] are wrong."""
        self.wrong += int((np.abs(new - reference) > bound).sum())
        with np.errstate(invalid="ignore", divide="ignore"):
            self.worst_weight = max(self.worst_weight, np.nan_to_num(np.abs(new - reference) / bound).max())

    def kept_unchanged(self, layer):
        kept = layer.new != 0
        self.wrong += int((layer.new[kept] != layer.w[kept]).sum())

    @property
    def failed(self):
        return self.wrong > 0 or self.miscounted > 0


def relative_change(a, b):
    """The largest relative difference of two arrays of scores."""
    return (np.abs(a - b)[a > 0] / a[a > 0]).max(initial=0)


def weights_bound(reference, reference32):
    return SLACK * np.abs(reference - reference32).max() + HALF_ULP * np.abs(reference)


def competitors(case, shape):
    """Slices of a weight within which the weights compete, as flat index arrays."""
    index = np.arange(shape[0] * shape[1]).reshape(shape)
    if case["pattern"]:
        return list(index.reshape(-1, case["pattern"][1]))
    return list(index) if case.get("per_row") else [index.ravel()]


def check_scores(case, layer, verdict):
    """Methods that only choose what goes, by a score."""
    scores = case["scores"](case, layer.w, layer.x)
    noise = SLACK * relative_change(scores, case["scores"](case, layer.w, layer.x32))
    pruned, flat = (layer.new == 0).ravel(), scores.ravel()
    for index in competitors(case, layer.w.shape):
        if case["pattern"]:
            count = case["pattern"][1] - case["pattern"][0]
        else:
            count = int(index.size * case["sparsity"])
        verdict.mask(flat[index], noise, smallest(flat[index], count), pruned[index])
    verdict.kept_unchanged(layer)


def check_blocks(case, layer, verdict):
    """As check_scores, with the sum over a block as its score; whole blocks go."""
    (rows, cols), (height, width) = layer.w.shape, case["block"]
    tiles = (rows // height, height, cols // width, width)
    scores, scores32 = (case["scores"](case, layer.w, x).reshape(tiles).sum(axis=(1, 3)) for x in (layer.x, layer.x32))
    zeros = (layer.new == 0).reshape(tiles).sum(axis=(1, 3))
    pruned = zeros == height * width
    verdict.wrong += int(zeros[~pruned].sum() - (layer.w == 0).reshape(tiles).sum(axis=(1, 3))[~pruned].sum())
    for index in competitors(case, scores.shape):
        verdict.mask(scores.ravel()[index], SLACK * relative_change(scores, scores32),
                     smallest(scores.ravel()[index], int(index.size * case["sparsity"])), pruned.ravel()[index])
    verdict.kept_unchanged(layer)


def check_threshold(case, layer, verdict):
    verdict.weights += layer.w.size
    verdict.wrong += int(((layer.new == 0) != (np.abs(layer.w) < case["threshold"])).sum())
    verdict.kept_unchanged(layer)


class Follow:
    """Replaces the choices of a reference by Harrow's, and notes what they were made from."""

    def __init__(self, case, new):
        self.case, self.new = case, new
        self.choices, self.ratios, self.off_grid = [], [], 0

    def __call__(self, columns, scores, chosen):
        zero = self.new[:, columns] == 0
        used = zero.copy()
        # Zeros too many are kept weights that were rounded to zero: the lowest scores are taken for what was pruned.
        for index in competitors(self.case, zero.shape) if self.case["quantized"] else []:
            candidates = np.where(zero.ravel()[index], scores.ravel()[index], np.inf)
            used.ravel()[index] &= smallest(candidates, int(chosen.ravel()[index].sum()))
        self.choices.append((scores.copy(), chosen.copy(), used))
        return used

    def codes(self, column, w, grids, codes, mask):
        low, high = quant_reference.RANGES[self.case["values"]]
        out = codes.copy()
        for r, (scale, zero) in enumerate(grids):
            if mask[r] or scale == 0:
                self.off_grid += int(self.new[r, column] != 0)
                continue
            out[r] = np.rint(self.new[r, column] / scale) + zero
            self.off_grid += int((out[r] - zero) * scale != self.new[r, column] or not low <= out[r] <= high)
            self.ratios.append((np.clip(w[r] / scale + zero, low, high), out[r]))
        return out


def judge_follow(case, follow, follow32, shape, verdict):
    for (scores, chosen, used), (scores32, _, _) in zip(follow.choices, follow32.choices):
        noise = SLACK * relative_change(scores, scores32)
        for index in competitors(case, scores.shape):
            verdict.mask(scores.ravel()[index], noise, chosen.ravel()[index], used.ravel()[index])
    verdict.wrong += follow.off_grid
    if follow.ratios:
        ratio, code = np.array(follow.ratios).T
        ratio32, _ = np.array(follow32.ratios).T
        # How far the weight is from the code that it got, in steps of the grid; 0.5 is a tie.
        noise = SLACK * np.abs(ratio - ratio32).max()
        distance = np.abs(ratio - code)
        verdict.weights += 0 if follow.choices else distance.size
        verdict.near_ties += int(((distance > 0.5) & (distance <= 0.5 + noise)).sum())
        verdict.wrong += int((distance > 0.5 + noise).sum())


def check_sparsegpt(case, layer, verdict):
    follow, follow32 = Follow(case, layer.new), Follow(case, layer.new)
    _, reference = prune_reference.sparsegpt(case, layer.w, layer.x, follow)
    _, reference32 = prune_reference.sparsegpt(case, layer.w, layer.x32, follow32)
    judge_follow(case, follow, follow32, layer.w.shape, verdict)
    verdict.values(layer.new, reference, weights_bound(reference, reference32))


def check_obs(case, layer, verdict):
    follow, follow32 = Follow(case, layer.new), Follow(case, layer.new)
    quant_reference.obs(case, layer.w, layer.x, follow)
    quant_reference.obs(case, layer.w, layer.x32, follow32)
    judge_follow(case, follow, follow32, layer.w.shape, verdict)


def check_rtn(case, layer, verdict):
    judge_rounding(case, layer.w, layer.new, verdict)


def judge_rounding(case, w, new_weights, verdict):
    values = case["values"]
    verdict.weights += w.size
    for r in range(w.shape[0]):
        for g in range(0, w.shape[1], case["group"]):
            part, new = w[r, g : g + case["group"]], new_weights[r, g : g + case["group"]]
            scale, zero = quant_reference.grid_of(values, part)
            code = np.rint(new / scale) + zero
            distance = np.abs(np.clip(part / scale + zero, *quant_reference.RANGES[values]) - code)
            verdict.wrong += int(((code - zero) * scale != new).sum() + (distance > 0.5 + quant_reference.TIE).sum())
            verdict.near_ties += int(((distance > 0.5) & (distance <= 0.5 + quant_reference.TIE)).sum())


def check_reconstruct(case, layer, verdict):
    """The mask is Wanda's, which has its own case."""
    mask = layer.new == 0
    verdict.weights += mask.size
    reference = reconstruction_reference.least_squares(case, layer.w, layer.x, mask)["weights"]
    reference32 = reconstruction_reference.least_squares(case, layer.w, layer.x32, mask)["weights"]
    verdict.miscounted += int((mask.sum(axis=1) != int(layer.w.shape[1] * case["sparsity"])).sum())
    verdict.values(layer.new, reference, weights_bound(reference, reference32))


def relative_error(layer, new):
    return ((layer.x @ (new - layer.w).T) ** 2).sum() / ((layer.x @ layer.w.T) ** 2).sum()


def check_iterative(case, layer, verdict):
    """Whole-layer optimizations: masks may differ where the reference does not decide alike in float32 either."""
    function = case["reference"]
    result, result32 = function(case, layer.w, layer.x), function(case, layer.w, layer.x32)
    mask, new = layer.new == 0, layer.new
    undecided = int((result["mask"] != result32["mask"]).sum())
    different = int((result["mask"] != mask).sum())
    verdict.weights += mask.size
    if "swaps" in result:
        verdict.notes.append(f"{result['swaps']} swaps")
    if different or undecided:
        verdict.notes.append(f"{layer.name}: {different} decided otherwise, {undecided} by the reference in float32")
    for index in competitors(case, mask.shape):
        verdict.miscounted += int(mask.ravel()[index].sum() != result["mask"].ravel()[index].sum())
    verdict.near_ties += min(different, SLACK * undecided)
    verdict.wrong += max(0, different - SLACK * undecided)
    if "weights" in result and not different and not undecided:
        verdict.values(new, result["weights"], weights_bound(result["weights"], result32["weights"]))
    elif "weights" not in result:
        verdict.kept_unchanged(layer)


def check_awq_clip(case, layer, verdict):
    if layer.name in LINEARS[:2]:
        return judge_rounding(case, layer.w, layer.new, verdict)
    verdict.weights += layer.w.size
    codes, grids = quant_reference.awq_clip(case, layer.w, layer.x, exact=False)
    for r in range(layer.w.shape[0]):
        for g in range(0, layer.w.shape[1], case["group"]):
            s = slice(g, g + case["group"])
            scale, zero = grids[r][g // case["group"]]
            expected = (codes[r, s] - zero) * scale
            if (expected == layer.new[r, s]).all():
                continue
            # Another clip, which must be as good, in either precision.
            losses = [(((x[:, s] @ (v - layer.w[r, s])) ** 2).mean())
                      for x in (layer.x, layer.x32) for v in (expected, layer.new[r, s])]
            tie = abs(losses[1] - losses[0]) <= SLACK * max(abs(losses[2] - losses[0]), abs(losses[3] - losses[1]))
            verdict.near_ties += int(tie)
            verdict.wrong += int(not tie)
    return None


def check_awq_scales(model, case, new, verdict):
    """The scales went into the norms, from which they can be read; the weights are what they say, rounded."""
    for names, norm in ((LINEARS[:3], "input_layernorm"), (LINEARS[4:6], "post_attention_layernorm")):
        layers = [layer for layer in model.layers(new) if layer.name in names]
        weight = f"model.layers.{BLOCK}.{norm}.weight"
        scales = model.dense[weight] / new[weight]
        losses, candidates = quant_reference.awq_scales(case, [layer.w for layer in layers], layers[0].x)
        losses32, candidates32 = quant_reference.awq_scales(case, [layer.w for layer in layers], layers[0].x32)
        taken = int(np.argmin([np.abs(np.log(c / scales)).max() for c in candidates]))
        verdict.values(scales, candidates[taken], 4 * HALF_ULP * candidates[taken]
                       + SLACK * np.abs(candidates[taken] - candidates32[taken]).max())
        noise = SLACK * np.abs(np.array(losses) - losses32).max()
        verdict.wrong += int(losses[taken] > min(losses) + noise)
        verdict.near_ties += int(taken != np.argmin(losses))
        verdict.notes.append(f"ratio {taken / 20}")
        for layer in layers:
            scaled = (layer.w * scales).astype(np.float32).astype(np.float64)
            judge_rounding(case, scaled, layer.new, verdict)


def check_low_rank(case, layer, verdict):
    """Each factor is rounded to BF16, by a relative 2^-8 at most."""
    verdict.weights += layer.w.size
    rows, cols = layer.w.shape
    case = dict(case, rank=int(rows * cols * case["ratio"] / (rows + cols)))
    rest = np.zeros_like(layer.w)
    if case["pattern"]:
        rest = np.where(groups_mask(prune_reference.wanda_scores(case, layer.w, layer.x), *case["pattern"]), 0, layer.w)
    b, a = low_rank.factors(case, layer.w - rest, layer.x)
    b32, a32 = low_rank.factors(case, layer.w - rest, layer.x32)
    rounding = (2.0**-7 + 2.0**-16 + case["rank"] * 2.0**-24) * (np.abs(b) @ np.abs(a)) + HALF_ULP * np.abs(layer.new)
    verdict.values(layer.new, rest + b @ a, rounding + SLACK * np.abs(b @ a - b32 @ a32).max())


def rows_of(new, dense):
    """Which row of `dense` each row of `new` is."""
    places = {row.tobytes(): i for i, row in enumerate(dense)}
    return np.array([places[row.tobytes()] for row in new])


def check_ria_order(model, case, new, verdict):
    """down_proj, whose inputs are the rows of up_proj."""
    up = f"model.layers.{BLOCK}.mlp.up_proj.weight"
    order = rows_of(new[up], model.dense[up])
    layer = list(model.layers(new))[6]
    if case["options"]["permute"] == "lsa":
        judge_assignment(case, layer, order, verdict)
    else:
        expected = pruner_reference.ria_order(case, layer.w, layer.x)["order"]
        verdict.wrong += int((order != expected).sum())
    verdict.notes.append(f"{int((order != np.arange(order.size)).sum())} of {order.size} inputs moved")
    check_scores(case, Layer(layer.name, layer.w[:, order], layer.new, layer.x[:, order], layer.x32[:, order]), verdict)


def judge_assignment(case, layer, order, verdict):
    """The heuristic's order or better; and no other assignment of the last slot's inputs to groups keeps more."""
    keep, of = case["pattern"]
    scores, scores32 = (pruner_reference.ria_scores(case, layer.w, x) for x in (layer.x, layer.x32))
    noise = SLACK * relative_change(scores, scores32)
    found = pruner_reference.kept(scores, order, keep, of)
    heuristic = pruner_reference.ria_order(dict(case, options={"permute": "heuristic"}), layer.w, layer.x)["kept_after"]
    groups = scores[:, order].reshape(scores.shape[0], -1, of)
    last = groups[:, :, -1]
    value = np.empty((groups.shape[1],) * 2)  # of the group with the input
    for g in range(groups.shape[1]):
        others = np.broadcast_to(groups[:, g, None, :-1], (*last.shape, of - 1))
        members = np.sort(np.concatenate([others, last[:, :, None]], axis=2), axis=2)
        value[g] = members[:, :, of - keep :].sum(axis=(0, 2))
    best = value[np.arange(len(value)), pruner_reference.assignment(value)].sum()
    verdict.wrong += int(found < heuristic * (1 - noise)) + int(found < best * (1 - noise))
    verdict.wrong += int(abs(np.trace(value) - found) > 1e-9 * found)
    verdict.notes.append(f"keeps {found / heuristic:.6f} of the heuristic's score, {found / best:.9f} of the best last slot's")


def check_block_reconstruct(model, case, new, verdict):
    """The mask stays Wanda's, and the block's output on the calibration inputs comes nearer to the dense one's."""
    _, wanda = model.compress(in_block("{method: wanda, sparsity: 0.5}"))
    errors = []
    for weights in (wanda, new):
        block = Block(dict(model.dense, **weights), model.config, BLOCK, np.float64)
        before, after = (model.inputs[np.float64][BLOCK][k].reshape(SEQUENCES, TOKENS, -1) for k in ("before", "after"))
        errors.append(sum(((block.forward(x)[0] - y) ** 2).sum() for x, y in zip(before, after)))
    for layer in model.layers(new):
        pruned = wanda[f"model.layers.{BLOCK}.{layer.name}.weight"] == 0
        verdict.weights += pruned.size
        verdict.wrong += int((layer.new[pruned] != 0).sum())
        verdict.miscounted += int((layer.new[~pruned] == 0).sum() > 0)
    verdict.wrong += int(errors[1] >= 0.9 * errors[0])
    verdict.notes.append(f"output error {errors[1] / errors[0]:.3f} of Wanda's")


def check_alps_objective(model, case, _, verdict):
    """Conjugate gradients never raise the objective, and the outcome is below SparseGPT's, on every linear."""
    objectives = []
    for step in [f"{{method: alps, {case['target']}, pcg_iterations: {n}}}" for n in (0, 1, 2, 4, 10)] + [
            f"{{method: sparsegpt, {case['target']}}}"]:
        _, new = model.compress(in_block(step))
        objectives.append([])
        for layer in model.layers(new):
            change = layer.new - layer.w
            h = reconstruction_reference.damped(layer.x, SEQUENCES, case["damping"])
            objectives[-1].append(((change @ h * change).sum(), relative_error(layer, layer.new)))
    objectives = np.array(objectives)
    verdict.weights += objectives.shape[1]
    # The objective is at a minimum in most directions; rounding the weights to float32 changes it by less than this.
    verdict.wrong += int((objectives[1:5, :, 0] > objectives[:4, :, 0] * (1 + 1e-6)).sum())
    verdict.wrong += int((objectives[4, :, 1] >= objectives[5, :, 1]).sum())
    verdict.notes.append("output error, of SparseGPT's: " + " ".join(
        f"{ratio:.3f}" for ratio in objectives[4, :, 1] / objectives[5, :, 1]))


def check_lasso(model, case, new, verdict):
    """k_proj of one model alone, with more damping: coordinate descent takes minutes on the correlated inputs of babyllama."""
    check_iterative(case, list(model.layers(new))[1], verdict)


def check_allocation(model, case, _, verdict):
    report, _ = model.compress("{method: wanda, sparsity: 0.6}", top=f"allocation: {case['allocation']}\n")
    expected = []
    for dtype in (np.float64, np.float32):
        blocks = [[(model.dense[f"model.layers.{b}.{n}.weight"], np.sqrt((x[n] ** 2).sum(axis=0) / SEQUENCES))
                   for n in LINEARS] for b, x in enumerate(model.inputs[dtype])]
        expected.append(np.repeat(case["reference"](case, blocks), len(LINEARS)))
    allocated = {layer["name"]: layer["allocated_sparsity"] for layer in report["layers"]}
    found = np.array([allocated[f"model.layers.{b}.{n}.weight"] for b in range(len(blocks)) for n in LINEARS])
    verdict.weights += found.size
    verdict.values(found, expected[0], 1e-9 + SLACK * np.abs(expected[0] - expected[1]).max())
    verdict.notes.append(" ".join(f"{s:.4f}" for s in expected[0][:: len(LINEARS)]))


def check_sensitivity(model, case, _, verdict):
    """Curves of our own making: the total is met, and no exchange between two weights lowers the sum of the hulls."""
    rng = np.random.default_rng(1)
    points = np.linspace(0, 0.9, 7)
    names = [f"model.layers.{b}.{n}" for b in range(model.config["num_hidden_layers"]) for n in LINEARS]
    losses = [np.concatenate([[0], np.cumsum(rng.uniform(-0.1, 1, 6) * points[1:])]) for _ in names]
    file = model.work / "sensitivity.json"
    file.write_text(json.dumps({"layers": [
        {"name": name, "points": [{"sparsity": s, "loss_increase": d} for s, d in zip(points[1:], loss[1:])]}
        for name, loss in zip(names, losses)]}))
    report, _ = model.compress("{method: wanda, sparsity: 0.6}",
                               top=f"allocation: {{method: sensitivity, file: '{file}', caps: {case['caps']}}}\n")
    allocated = {layer["name"]: layer["allocated_sparsity"] for layer in report["layers"]}
    found = np.array([allocated[name + ".weight"] for name in names])
    sizes = np.array([model.dense[name + ".weight"].size for name in names])
    verdict.weights += found.size
    verdict.wrong += int(abs((found * sizes).sum() - case["sparsity"] * sizes.sum()) > 1e-6)
    spent, next_price = [], []  # loss a weight of the last part that was bought of each, and of the next
    for name, s, size, loss in zip(names, found, sizes, losses):
        high = case["cap"] if name.endswith("down_proj") else points[-1]
        verdict.wrong += int(not -1e-9 <= s <= high + 1e-9)
        chords = [(a, b, (loss[b] - loss[a]) / (points[b] - points[a])) for a in range(7) for b in range(a + 1, 7)]
        # The hull at s: the least chord over it; its slopes are those of the hull beside s.
        def hull(t):
            return min(loss[a] + slope * (t - points[a]) for a, b, slope in chords if points[a] <= t <= points[b])
        step = 1e-7
        if s > 2 * step:
            spent.append((hull(s - step) - hull(s - 2 * step)) / step / size)
        if s < high - 2 * step:
            next_price.append((hull(s + 2 * step) - hull(s + step)) / step / size)
    verdict.wrong += int(max(spent) > min(next_price) + 1e-6 * abs(min(next_price)) + 1e-9)
    verdict.notes.append(f"{found.min():.3f} to {found.max():.3f}")


def check_shortgpt(model, _case, _, verdict):
    report = model.run("structure: [{method: shortgpt, drop: 1}]")
    found = np.array([b["score"] for b in report["structure"][0]["blocks"]])
    expected, expected32 = ([structure_reference.influence(b["before"], b["after"]) for b in model.inputs[dtype]]
                            for dtype in (np.float64, np.float32))
    verdict.weights += found.size
    verdict.values(found, np.array(expected), SLACK * np.abs(np.subtract(expected, expected32)).max())
    dropped = [not b["kept"] for b in report["structure"][0]["blocks"]]
    verdict.wrong += int(np.flatnonzero(dropped).tolist() != [int(np.argmin(expected))])
    verdict.notes.append(" ".join(f"{s:.4f}" for s in expected))


def check_flap(model, case, _, verdict):
    """Which heads and neurons are left can be read from the rows of q_proj and up_proj."""
    model.run(f"structure: [{{method: flap, ratio: {case['ratio']}, round: 1}}]")
    new = load(model.output)
    config = model.config
    heads, kv_heads = config["num_attention_heads"], config.get("num_key_value_heads", config["num_attention_heads"])
    head_dim = config["hidden_size"] // heads
    expected = structure_reference.flap_kept(case["ratio"], [
        (model.dense[f"model.layers.{b}.{LINEARS[3]}.weight"], x[LINEARS[3]],
         model.dense[f"model.layers.{b}.{LINEARS[6]}.weight"], x[LINEARS[6]])
        for b, x in enumerate(model.inputs[np.float64])], kv_heads, heads // kv_heads, head_dim)
    for b, (groups, neurons) in enumerate(zip(expected["groups"], expected["neurons"])):
        name = f"model.layers.{b}.{{}}.weight".format
        width = head_dim * heads // kv_heads
        inputs = (np.add.outer(np.array(groups, dtype=int) * width, np.arange(width)).ravel(), np.array(neurons, dtype=int))
        for maker, taker, kept in zip((LINEARS[0], LINEARS[5]), (LINEARS[3], LINEARS[6]), inputs):
            found = rows_of(new[name(maker)], model.dense[name(maker)])
            verdict.weights += model.dense[name(maker)].shape[0]
            verdict.wrong += len(set(found.tolist()) ^ set(kept.tolist()))
            gone = np.setdiff1d(np.arange(model.dense[name(maker)].shape[0]), found)
            w = model.dense[name(taker)]
            bias, bias32 = (w[:, gone] @ model.inputs[dtype][b][taker][:, gone].mean(axis=0)
                            for dtype in (np.float64, np.float32))
            if gone.size:
                verdict.values(new[name(taker).replace(".weight", ".bias")], bias, weights_bound(bias, bias32))
        verdict.notes.append(f"{len(groups)}/{kv_heads} groups {len(neurons)}/{config['intermediate_size']} neurons")


def case(name, check, yaml, sparsity=0.0, pattern=(), **more):
    defaults = dict(sequences=SEQUENCES, tokens=TOKENS, damping=0.01, block_size=128, group=128, values="i4",
                    quantized="INT" in name, act_order=False, masked=0.0, tile=[], block=[], compare="layer", options={}, first="wanda")
    return dict(defaults, name=name, check=check, yaml=yaml, sparsity=sparsity, pattern=list(pattern), **more)


def magnitude_scores(case, w, x):
    return np.abs(w)


CASES = [
    case("magnitude 50 %", check_scores, "{method: magnitude, sparsity: 0.5}", 0.5, scores=magnitude_scores),
    case("magnitude 2:4", check_scores, "{method: magnitude, pattern: '2:4'}", pattern=(2, 4), scores=magnitude_scores),
    case("magnitude threshold", check_threshold, "{method: magnitude, threshold: 0.05}", threshold=0.05),
    case("wanda 50 %", check_scores, "{method: wanda, sparsity: 0.5}", 0.5, per_row=True,
         scores=prune_reference.wanda_scores),
    case("wanda 4:8", check_scores, "{method: wanda, pattern: '4:8'}", pattern=(4, 8), scores=prune_reference.wanda_scores),
    case("wanda row-adaptive", check_iterative, "{method: wanda, sparsity: 0.5, variant: row_adaptive}", 0.5,
         reference=pruner_reference.wanda_row_adaptive),
    case("ria 50 %", check_scores, "{method: ria, sparsity: 0.5}", 0.5, scores=pruner_reference.ria_scores),
    case("ria 2:4", check_scores, "{method: ria, pattern: '2:4', permute: none}", pattern=(2, 4),
         scores=pruner_reference.ria_scores),
    case("magnitude 16x1", check_blocks, "{method: magnitude, sparsity: 0.5, pattern: 16x1}", 0.5, block=[16, 1],
         scores=magnitude_scores),
    case("wanda 16x1", check_blocks, "{method: wanda, sparsity: 0.5, pattern: 16x1}", 0.5, block=[16, 1], per_row=True,
         scores=prune_reference.wanda_scores),
    case("wanda 16x16", check_blocks, "{method: wanda, sparsity: 0.5, pattern: 16x16, compare: layer}", 0.5, block=[16, 16],
         scores=prune_reference.wanda_scores),
    case("ria 16x1", check_blocks, "{method: ria, sparsity: 0.5, pattern: 16x1, compare: layer}", 0.5, block=[16, 1],
         scores=pruner_reference.ria_scores),
    case("dsnot", check_iterative, "{method: wanda, sparsity: 0.5}, {method: dsnot}", 0.5, per_row=True,
         reference=pruner_reference.dsnot),
    case("dsnot as its authors run it", check_iterative,
         "{method: wanda, sparsity: 0.5}, {method: dsnot, without_same_sign: true}", 0.5, per_row=True,
         reference=pruner_reference.dsnot, options={"without_same_sign": True}),
    case("dsnot 2:4", check_iterative, "{method: wanda, pattern: '2:4'}, {method: dsnot}", pattern=(2, 4),
         reference=pruner_reference.dsnot),
    case("sparsegpt 50 %", check_sparsegpt, "{method: sparsegpt, sparsity: 0.5}", 0.5),
    case("sparsegpt 2:4", check_sparsegpt, "{method: sparsegpt, pattern: '2:4'}", pattern=(2, 4)),
    case("sparsegpt 50 % + INT4", check_obs, "{method: sparsegpt, sparsity: 0.5, quantize: {format: int4, group: 128, sweeps: 0}}",
         0.5),
    case("sparsegpt 2:4 + INT4", check_obs, "{method: sparsegpt, pattern: '2:4', quantize: {format: int4, group: 64, sweeps: 0}}",
         pattern=(2, 4), group=64),
    case("reconstruct", check_reconstruct, "{method: wanda, sparsity: 0.5}, {method: reconstruct, exact_up_to: 1024}", 0.5),
    case("alps 50 %", check_iterative, "{method: alps, sparsity: 0.5}", 0.5, reference=reconstruction_reference.alps),
    case("alps 2:4", check_iterative, "{method: alps, pattern: '2:4'}", pattern=(2, 4),
         reference=reconstruction_reference.alps),
    case("alps objective 70 %", check_alps_objective, None, target="sparsity: 0.7", whole=True),
    case("alps objective 2:4", check_alps_objective, None, target="pattern: '2:4'", whole=True),
    case("lasso", check_lasso, "{method: lasso, sparsity: 0.5, damping: 0.1, iterations: 20000, tolerance: 1.0e-8, "
         "refit_iterations: 2000}", 0.5, damping=0.1, model="TinyStories-656K", linears="k_proj", reference=functools.partial(
             reconstruction_reference.lasso, tolerance=1e-8), whole=True),
    case("ria 2:4 permuted", check_ria_order, "{method: ria, pattern: '2:4', permute: heuristic}", pattern=(2, 4),
         scores=pruner_reference.ria_scores, options={"permute": "heuristic"}, linears="down_proj", whole=True),
    case("ria 2:4 assigned", check_ria_order, "{method: ria, pattern: '2:4', permute: lsa}", pattern=(2, 4),
         scores=pruner_reference.ria_scores, options={"permute": "lsa"}, linears="down_proj", whole=True),
    case("block_reconstruct", check_block_reconstruct, "{method: wanda, sparsity: 0.5}, {method: block_reconstruct}", 0.5,
         whole=True),
    case("svd_llm", check_low_rank, "{method: svd_llm, ratio: 0.4, damping: 0}", ratio=0.4, scaling="hessian"),
    case("asvd", check_low_rank, "{method: asvd, ratio: 0.4}", ratio=0.4, scaling="diagonal", alpha=0.5),
    case("lowrank_correction", check_low_rank,
         "{method: wanda, pattern: '2:4'}, {method: lowrank_correction, ratio: 0.2, damping: 0}", pattern=(2, 4), ratio=0.2,
         scaling="hessian"),
    case("lowrank_correction diagonal", check_low_rank,
         "{method: wanda, pattern: '2:4'}, {method: lowrank_correction, ratio: 0.2, weighting: diagonal}", pattern=(2, 4),
         ratio=0.2, scaling="diagonal", alpha=1.0),
    case("owl", check_allocation, None, 0.6, allocation="{method: owl, M: 5, lambda: 0.08}", M=5,
         reference=allocation_reference.owl, whole=True, **{"lambda": 0.08}),
    case("dlp", check_allocation, None, 0.6, allocation="{method: dlp, alpha: 0.15}", alpha=0.15, statistic="mean",
         reference=allocation_reference.dlp, whole=True),
    case("alphapruning", check_allocation, None, 0.6, allocation="{method: alphapruning, epsilon: 0.3}", epsilon=0.3,
         reference=allocation_reference.alphapruning, whole=True),
    case("sensitivity", check_sensitivity, None, 0.6, caps="[{match: 're:down_proj', max: 0.4}]", cap=0.4, whole=True),
    case("shortgpt", check_shortgpt, None, whole=True),
    case("flap", check_flap, None, ratio=0.3, whole=True),
    case("awq INT4 clip", check_awq_clip, "{method: awq, format: int4, scale: false}"),
    case("awq INT4 scales", check_awq_scales, "{method: awq, format: int4, clip: false}",
         linears="(self_attn[.][qkv]|mlp[.](gate|up))", whole=True),
    case("rtn INT4", check_rtn, "{method: rtn, format: int4, embed: false}"),
    case("rtn INT4 asymmetric", check_rtn, "{method: rtn, format: int4, group: 64, symmetric: false, embed: false}",
         values="u4", group=64),
    case("rtn INT8", check_rtn, "{method: rtn, format: int8, embed: false}", values="i8"),
    case("gptq INT4", check_obs, "{method: gptq, format: int4, act_order: false}"),
    case("gptq INT4 act-order", check_obs, "{method: gptq, format: int4, act_order: true}", act_order=True),
    case("gptq INT4 asymmetric", check_obs, "{method: gptq, format: int4, symmetric: false, act_order: false}",
         values="u4"),
    case("gptq INT4 asym. act-order", check_obs, "{method: gptq, format: int4, symmetric: false, act_order: true}",
         values="u4", act_order=True),
]


def call(harrow, *arguments):
    done = subprocess.run([harrow, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"check_real_layers: `harrow {' '.join(map(str, arguments))}` failed: {done.stderr}")
    return done.stdout


class RealModel:
    """A model, its calibration and the dense activations of every block."""

    def __init__(self, harrow, directory, work, text):
        self.harrow, self.directory, self.work, self.text = harrow, directory, work, text
        self.name = directory.name
        self.config = json.loads((directory / "config.json").read_text())
        self.dense = load(directory)
        self.output = work / f"{self.name}.out"
        saved = work / f"{self.name}.ids.json"
        self.compress("{method: wanda, sparsity: 0.5}", "", "--save-calibration", saved)
        ids = json.loads(saved.read_text())["ids"]
        self.inputs = {dtype: self.forward(ids, dtype) for dtype in (np.float64, np.float32)}

    def forward(self, ids, dtype):
        """By block: the inputs of its linears [tokens, cols] and the hidden states before and after it."""
        embedding = self.dense.get("model.embed_tokens.weight", self.dense.get("lm_head.weight")).astype(dtype)
        hidden = [embedding[i] for i in ids]
        blocks = []
        for index in range(self.config["num_hidden_layers"]):
            block = Block(self.dense, self.config, index, dtype)
            results = [block.forward(x) for x in hidden]
            inputs = {n: np.concatenate([r[1][n] for r in results]).astype(np.float64) for n in LINEARS}
            inputs["before"] = np.concatenate(hidden).astype(np.float64)
            hidden = [r[0] for r in results]
            inputs["after"] = np.concatenate(hidden).astype(np.float64)
            blocks.append(inputs)
        return blocks

    def run(self, recipe_text, *arguments):
        recipe = self.work / "recipe.yaml"
        recipe.write_text(f"calibration: {{file: '{self.text}', mode: concat, samples: {SEQUENCES}, "
                          f"sequence_length: {TOKENS}}}\nstore: dense\n{recipe_text}\n")
        return json.loads(call(self.harrow, "compress", self.directory, "-r", recipe, "-o", self.output, "--overwrite",
                               "--restart", "--no-measure", "--json", "--threads", 1, *arguments))["compression"]

    def compress(self, steps, top="", *arguments):
        report = self.run(f"{top}steps: [{steps}]", *arguments)
        exported = self.work / f"{self.name}.exported"
        call(self.harrow, "export", self.output, "-o", exported, "--dtype", "f32", "--overwrite")
        return report, load(exported)

    def layers(self, new):
        for name in LINEARS:
            weight = f"model.layers.{BLOCK}.{name}.weight"
            yield Layer(name, self.dense[weight], new[weight], self.inputs[np.float64][BLOCK][name],
                        self.inputs[np.float32][BLOCK][name])


def in_block(steps, linears=""):
    """The steps, on the linears of the block that is looked at."""
    target = f", targets: 're:layers[.]{BLOCK}[.].*{linears}'}}"
    return steps.replace("}, {", target + ", {")[:-1] + target


def run_case(model, case):
    verdict = Verdict()
    new = model.compress(in_block(case["yaml"], case.get("linears", "")))[1] if case["yaml"] else None
    if case.get("whole"):
        case["check"](model, case, new, verdict)
    else:
        for layer in model.layers(new):
            case["check"](case, layer, verdict)
    return verdict


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--harrow", required=True)
    parser.add_argument("--data", required=True, help="shared/data")
    parser.add_argument("--work", required=True)
    parser.add_argument("--model", help="only this one")
    parser.add_argument("--only", action="append", help="cases whose name begins so")
    args = parser.parse_args()
    data, work = pathlib.Path(args.data), pathlib.Path(args.work)
    text = data / "corpora/tinystories_1MB.txt"
    if not text.exists():
        print(f"check_real_layers: skipped, needs {text}, which is not here")
        sys.exit(77)
    work.mkdir(parents=True, exist_ok=True)
    baby = work / "babyllama-105"
    call(args.harrow, "convert", data / "models/babyllama-105/model5000.bin", "--tokenizer",
         data / "models/babyllama-105/tok105.model", "-o", baby, "--overwrite")
    failed = False
    for directory in (data / "models/TinyStories-656K", baby):
        model = RealModel(args.harrow, directory, work, text)
        for case in CASES:
            if case.get("model", model.name) != model.name:
                continue
            if args.model and model.name != args.model or args.only and not case["name"].startswith(tuple(args.only)):
                continue
            start = time.time()
            verdict = run_case(model, case)
            failed |= verdict.failed
            print(f"{'FAILED' if verdict.failed else 'ok':6} {model.name} {case['name']}: {verdict.weights} weights, "
                  f"{verdict.near_ties} near-ties, {verdict.wrong} wrong, {verdict.miscounted} groups miscounted, "
                  f"weights at {verdict.worst_weight:.3f} of their bound; {time.time() - start:.1f} s "
                  + " ".join(verdict.notes), flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
