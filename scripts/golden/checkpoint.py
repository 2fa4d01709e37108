#!/usr/bin/env python3
"""Golden values for checkpoint conversion, and a check of Harrow's files by the safetensors package.

  checkpoint.py write SHARED_DATA OUT.json   tensors of real models, as an independent reader sees them
  checkpoint.py check GOLDEN.json MODEL DIR  compares a directory that Harrow wrote with them

Needs numpy and, from pip, safetensors and xxhash. The RoPE permutation is the reshape / transpose of transformers'
convert_llama_weights_to_hf.py; the file layouts are those of karpathy/llama2.c export.py.
"""
import glob
import json
import os
import struct
import sys

import numpy as np
import xxhash
from safetensors.numpy import load_file


def permute(w, heads):
    rows, cols = w.shape
    return w.reshape(heads, rows // heads // 2, 2, cols).transpose(0, 2, 1, 3).reshape(rows, cols)


def read_llama2c(path):
    raw = open(path, "rb").read()
    v1 = raw[:4] == b"24ka"
    dim, hidden, layers, heads, kv_heads, vocab, ctx = struct.unpack_from("<7i", raw, 8 if v1 else 0)
    shared = raw[36] == 1 if v1 else vocab > 0
    vocab = abs(vocab)
    floats = np.frombuffer(raw, dtype="<f4", offset=256 if v1 else 28)
    head = dim // heads
    shapes = {"att_norm": (layers, dim), "wq": (layers, dim, dim), "wk": (layers, head * kv_heads, dim),
              "wv": (layers, head * kv_heads, dim), "wo": (layers, dim, dim), "ffn_norm": (layers, dim),
              "w1": (layers, hidden, dim), "w2": (layers, dim, hidden), "w3": (layers, hidden, dim),
              "norm": (dim,), "rope": (2, ctx, head // 2), "tok": (vocab, dim), "head": (vocab, dim)}
    order = (["att_norm", "ffn_norm", "norm", "tok", "wq", "wk", "wv", "wo", "w1", "w2", "w3"] if v1 else
             ["tok", "att_norm", "wq", "wk", "wv", "wo", "ffn_norm", "w1", "w2", "w3", "norm", "rope"])
    t, at = {}, 0
    for name in order + ([] if shared else ["head"]):
        n = int(np.prod(shapes[name]))
        t[name] = floats[at:at + n].reshape(shapes[name])
        at += n
    assert at == floats.size, (path, at, floats.size)
    out = {"model.embed_tokens.weight": t["tok"], "model.norm.weight": t["norm"]}
    if not shared:
        out["lm_head.weight"] = t["head"]
    for i in range(layers):
        p = f"model.layers.{i}."
        out[p + "input_layernorm.weight"] = t["att_norm"][i]
        out[p + "post_attention_layernorm.weight"] = t["ffn_norm"][i]
        out[p + "self_attn.q_proj.weight"] = permute(t["wq"][i], heads)
        out[p + "self_attn.k_proj.weight"] = permute(t["wk"][i], kv_heads)
        out[p + "self_attn.v_proj.weight"] = t["wv"][i]
        out[p + "self_attn.o_proj.weight"] = t["wo"][i]
        out[p + "mlp.gate_proj.weight"] = t["w1"][i]
        out[p + "mlp.down_proj.weight"] = t["w2"][i]
        out[p + "mlp.up_proj.weight"] = t["w3"][i]
    return out


def describe(tensors):
    return {name: {"shape": list(t.shape), "dtype": str(t.dtype),
                   "xxh3": xxhash.xxh3_64_hexdigest(np.ascontiguousarray(t).tobytes())}
            for name, t in sorted(tensors.items())}


def write(shared, out):
    models = os.path.join(shared, "models")
    golden = {
        "stories260K": describe(read_llama2c(f"{models}/stories260K/stories260K.bin")),
        "babyllama-105": describe(read_llama2c(f"{models}/babyllama-105/model5000.bin")),
        "TinyStories-656K": describe(load_file(f"{models}/TinyStories-656K/model.safetensors")),
    }
    assert describe(read_llama2c(f"{models}/stories260K/checkpoint_v1.bin")) == golden["stories260K"]
    with open(out, "w") as f:
        json.dump(golden, f, indent=1)
        f.write("\n")


def check(golden, model, directory):
    tensors = {}
    for path in sorted(glob.glob(f"{directory}/*.safetensors")):
        tensors.update(load_file(path))
        raw = open(path, "rb").read(8)
        assert (8 + struct.unpack("<Q", raw)[0]) % 64 == 0, f"{path}: data section is not aligned"
    assert describe(tensors) == json.load(open(golden))[model], "tensors differ"
    config = json.load(open(f"{directory}/config.json"))
    assert config["architectures"] == ["LlamaForCausalLM"]
    print(f"{directory}: {len(tensors)} tensors equal")


if __name__ == "__main__":
    {"write": write, "check": check}[sys.argv[1]](*sys.argv[2:])
