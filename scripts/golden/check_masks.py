#!/usr/bin/env python3
"""Checks the masks of a compressed LLaMA block by block against float64.

    check_masks.py DENSE EXPORTED CALIBRATION.json --method wanda|sparsegpt|magnitude --sparsity S | --pattern N:M

DENSE is the original directory; EXPORTED is `harrow export` of the compressed one; CALIBRATION.json holds the token
ids that Harrow calibrated on (`--save-calibration`). For every block, the inputs of its linears are computed here in
float64 (own forward pass, numpy only) from the weights of Harrow's compressed blocks before it and the dense block
itself; the method's mask follows from its definition. Harrow computes activations in float32 (and rounds them to BF16
for BF16 weights), so a weight may be decided otherwise where its score and the threshold agree within --noise
(relative, of the score). Such near-ties are counted and their worst gap is printed; any other difference fails.

SparseGPT: its masks in later columns depend on the updates made for earlier ones, so one flipped near-tie changes the
rest of its row. The columns are therefore processed with Harrow's own mask: after each block of columns has been
compared, Harrow's choice is applied.
"""
import argparse
import json
import math
import pathlib
import struct
import sys

import numpy as np

LINEARS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
           "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]


def load(directory):
    tensors = {}
    for path in sorted(pathlib.Path(directory).glob("*.safetensors")):
        data = path.read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        for name, info in json.loads(data[8 : 8 + size]).items():
            if name == "__metadata__":
                continue
            begin, end = (8 + size + v for v in info["data_offsets"])
            raw = data[begin:end]
            if info["dtype"] == "F32":
                values = np.frombuffer(raw, "<f4").astype(np.float64)
            elif info["dtype"] == "F16":
                values = np.frombuffer(raw, "<f2").astype(np.float64)
            elif info["dtype"] == "BF16":
                bits = np.frombuffer(raw, "<u2").astype(np.uint32) << 16
                values = bits.view(np.float32).astype(np.float64)
            else:
                sys.exit(f"{path}: {name}: dtype {info['dtype']}; export the model first")
            tensors[name] = values.reshape(info["shape"])
    return tensors


class Block:
    """One decoder block; forward() also returns the inputs of its linears. All in the precision `dtype`."""

    def __init__(self, tensors, config, index, dtype=np.float64):
        p = f"model.layers.{index}."
        self.w = {n: tensors[p + n + ".weight"].astype(dtype) for n in LINEARS}
        self.norm1 = tensors[p + "input_layernorm.weight"].astype(dtype)
        self.norm2 = tensors[p + "post_attention_layernorm.weight"].astype(dtype)
        self.heads = config["num_attention_heads"]
        self.kv_heads = config.get("num_key_value_heads", self.heads)
        self.dim = config.get("head_dim") or config["hidden_size"] // self.heads
        self.eps = config.get("rms_norm_eps", 1e-6)
        self.theta = config.get("rope_theta", 10000.0)
        if config.get("rope_scaling"):
            sys.exit("rope_scaling is not implemented in this script")

    def norm(self, x, weight):
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + self.eps) * weight

    def rope(self, x):
        half = self.dim // 2
        angles = np.outer(np.arange(x.shape[1]), self.theta ** (-np.arange(half) * 2.0 / self.dim))
        cos, sin = np.cos(angles).astype(x.dtype), np.sin(angles).astype(x.dtype)
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def split(self, x, heads):
        return x.reshape(x.shape[0], heads, self.dim).transpose(1, 0, 2)

    def forward(self, x):
        inputs = {}
        normed = self.norm(x, self.norm1)
        for name in LINEARS[:3]:
            inputs[name] = normed
        q = self.rope(self.split(normed @ self.w[LINEARS[0]].T, self.heads))
        k = self.rope(self.split(normed @ self.w[LINEARS[1]].T, self.kv_heads))
        v = self.split(normed @ self.w[LINEARS[2]].T, self.kv_heads)
        repeat = self.heads // self.kv_heads
        scores = q @ k.repeat(repeat, axis=0).transpose(0, 2, 1) / math.sqrt(self.dim)
        scores[:, np.triu(np.ones(scores.shape[1:], dtype=bool), 1)] = -np.inf
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        attended = (scores @ v.repeat(repeat, axis=0)).transpose(1, 0, 2).reshape(x.shape[0], -1)
        inputs[LINEARS[3]] = attended
        x = x + attended @ self.w[LINEARS[3]].T
        normed = self.norm(x, self.norm2)
        inputs[LINEARS[4]] = inputs[LINEARS[5]] = normed
        gate = normed @ self.w[LINEARS[4]].T
        gated = gate / (1 + np.exp(-gate)) * (normed @ self.w[LINEARS[5]].T)
        inputs[LINEARS[6]] = gated
        return x + gated @ self.w[LINEARS[6]].T, inputs


class Comparison:
    def __init__(self, noise):
        self.noise = noise
        self.weights = self.near_ties = self.wrong = self.miscounted = 0
        self.worst_tie = self.worst_wrong = 0.0

    def group(self, scores, pruned, count):
        """One set of competing weights, flat: reference scores, Harrow's mask, how many must go."""
        self.weights += scores.size
        if pruned.sum() != count:
            self.miscounted += 1
        order = np.argsort(scores, kind="stable")
        expected = np.zeros(scores.size, dtype=bool)
        expected[order[:count]] = True
        different = expected != pruned
        if not different.any():
            return
        # The threshold lies between the last that goes and the first that stays.
        threshold = (scores[order[count - 1]] + scores[order[min(count, scores.size - 1)]]) / 2
        gap = np.abs(scores[different] - threshold) / max(threshold, 1e-300)
        ties = gap <= self.noise
        self.near_ties += int(ties.sum())
        self.wrong += int((~ties).sum())
        self.worst_tie = max([self.worst_tie, *gap[ties]])
        self.worst_wrong = max([self.worst_wrong, *gap[~ties]])


def compare_scores(scores, pruned, args, per_row, comparison):
    rows, cols = scores.shape
    if args.pattern:
        keep, of = args.pattern
        for s, p in zip(scores.reshape(-1, of), pruned.reshape(-1, of)):
            comparison.group(s, p, of - keep)
    elif per_row:
        for s, p in zip(scores, pruned):
            comparison.group(s, p, int(cols * args.sparsity))
    else:
        comparison.group(scores.ravel(), pruned.ravel(), int(scores.size * args.sparsity))


def sparsegpt(w, h, new, args, comparison):
    """Returns the weights that the reference gets with Harrow's mask."""
    w, h, pruned = w.copy(), h.copy(), new == 0
    cols = w.shape[1]
    dead = np.diag(h) == 0
    h[dead, dead] = 1
    w[:, dead] = 0
    h += args.damping * np.mean(np.diag(h)) * np.eye(cols)
    upper = np.linalg.cholesky(np.linalg.inv(h)).T
    d = np.diag(upper)
    block = args.block_size
    for j in range(cols):
        if args.pattern:
            if j % args.pattern[1] == 0:
                span = slice(j, j + args.pattern[1])
                compare_scores((w[:, span] / d[span]) ** 2, pruned[:, span], args, False, comparison)
        elif j % block == 0:
            span = slice(j, j + block)
            compare_scores((w[:, span] / d[span]) ** 2, pruned[:, span], args, False, comparison)
        error = np.where(pruned[:, j], w[:, j], 0) / d[j]
        w[:, j:] -= np.outer(error, upper[j, j:])
        w[pruned[:, j], j] = 0
    return w


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dense")
    parser.add_argument("exported")
    parser.add_argument("calibration")
    parser.add_argument("--method", required=True, choices=["magnitude", "wanda", "sparsegpt"])
    parser.add_argument("--sparsity", type=float, default=0.0)
    parser.add_argument("--pattern", type=lambda text: tuple(int(v) for v in text.split(":")))
    parser.add_argument("--damping", type=float, default=0.01)
    parser.add_argument("--block-size", type=int, default=128)
    parser.add_argument("--noise", type=float, default=1e-4)
    args = parser.parse_args()

    config = json.loads((pathlib.Path(args.dense) / "config.json").read_text())
    dense, new = load(args.dense), load(args.exported)
    calibration = json.loads(pathlib.Path(args.calibration).read_text())["ids"]
    embedding = dense.get("model.embed_tokens.weight", dense.get("lm_head.weight"))
    hidden = [embedding[ids] for ids in calibration]
    failed = False
    for index in range(config["num_hidden_layers"]):
        block = Block(dense, config, index)
        gram = {}
        for x in hidden:
            for name, value in block.forward(x)[1].items():
                gram[name] = gram.get(name, 0) + value.T @ value / len(hidden)
        for name in LINEARS:
            w, w_new = block.w[name], new[f"model.layers.{index}.{name}.weight"]
            comparison = Comparison(args.noise)
            note = ""
            if args.method == "sparsegpt":
                reference = sparsegpt(w, 2 * gram[name], w_new, args, comparison)
                worst = np.abs(w_new - reference).max() / np.abs(reference).max()
                note = f", weights within {worst:.1e} of the largest"
            else:
                norms = np.sqrt(np.diag(gram[name])) if args.method == "wanda" else 1.0
                compare_scores(np.abs(w) * norms, w_new == 0, args, args.method == "wanda", comparison)
            failed |= comparison.wrong > 0 or comparison.miscounted > 0
            print(f"block {index} {name}: {comparison.weights} weights, {comparison.near_ties} near-ties "
                  f"(worst gap {comparison.worst_tie:.1e}), {comparison.wrong} wrong "
                  f"(worst {comparison.worst_wrong:.1e}), {comparison.miscounted} groups miscounted{note}")
        after = Block(new, config, index)
        hidden = [after.forward(x)[0] for x in hidden]
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
