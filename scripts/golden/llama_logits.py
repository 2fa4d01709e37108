#!/usr/bin/env python3
"""Makes tests/golden/llama_*: tiny random LLaMA models and the logits that Hugging Face computes.

Made with transformers 4.46.3 and torch 1.13.0 (Debian 12's python3-torch), model in float64 (parts
of transformers, norms, rotary angles and softmax, stay in float32 by its own casts):

    /usr/bin/python3 -m venv --system-site-packages /tmp/golden
    /tmp/golden/bin/pip install transformers==4.46.3 safetensors
    /tmp/golden/bin/python scripts/golden/llama_logits.py

expected.json:
  ids             token ids of one sequence
  positions       where `logits` were taken
  logits          [positions, vocab]
  sum_deviation   how far logits move when every linear layer errs by u times the sum of |x||w| of
                  each output, with random signs and sizes: the largest change over trials, divided
                  by u. For errors of summation.
  input_deviation the same when every input element of a linear layer errs by u times itself. For
                  rounding of activations.
"""

import json
import os
import shutil
import sys

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "golden")
TOKENS = 48
POSITIONS = [0, 1, 13, 31, 47]
TRIALS = 8
NOISE = 2.0**-14

BASE = dict(hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, vocab_size=90, max_position_embeddings=64, rms_norm_eps=1e-5,
            rope_theta=10000.0, hidden_act="silu", tie_word_embeddings=False)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
MODELS = {
    "llama_gqa_untied_f32": (dict(), torch.float32),
    "llama_mha_tied_bf16": (dict(num_key_value_heads=4, tie_word_embeddings=True), torch.bfloat16),
    "llama_rope3_f16": (dict(rope_scaling=LLAMA3, rope_theta=500000.0, num_attention_heads=2,
                             num_key_value_heads=1, tie_word_embeddings=True), torch.float16),
    "llama_linear_f32": (dict(rope_scaling=dict(rope_type="linear", factor=4.0),
                              tie_word_embeddings=True), torch.float32),
    "llama_headdim_f32": (dict(head_dim=12, num_key_value_heads=1, tie_word_embeddings=True),
                          torch.float32),
    "llama_relu_bf16": (dict(hidden_act="relu", num_hidden_layers=3), torch.bfloat16),
}


def logits_of(model, ids):
    with torch.no_grad():
        return model(ids.unsqueeze(0)).logits[0].double()


def deviation(model, ids, clean, hook):
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    handles = [hook(m) for m in linears]
    worst = max((logits_of(model, ids) - clean).abs().max().item() for _ in range(TRIALS))
    for handle in handles:
        handle.remove()
    return float(f"{worst / NOISE:.4g}")


def noise_like(x):
    return NOISE * (2 * torch.rand_like(x) - 1)


def perturb_sums(module):
    def run(m, inputs, output):
        size = torch.nn.functional.linear(inputs[0].abs(), m.weight.abs())
        return output + noise_like(size) * size
    return module.register_forward_hook(run)


def perturb_inputs(module):
    return module.register_forward_pre_hook(lambda m, x: (x[0] * (1 + noise_like(x[0])),))


def make(name, changes, dtype, seed):
    torch.manual_seed(seed)
    config = LlamaConfig(**{**BASE, **changes}, attn_implementation="eager")
    model = LlamaForCausalLM(config).double().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() == 1:  # norms
                values = 1 + 0.3 * torch.randn_like(parameter)
            elif "embed" in key:
                values = 0.5 * torch.randn_like(parameter)
            else:
                values = 1.5 * torch.randn_like(parameter) / parameter.shape[1] ** 0.5
            parameter.copy_(values.to(dtype).double())
    if model.config.tie_word_embeddings:
        model.tie_weights()
    ids = torch.randint(0, config.vocab_size, (TOKENS,))
    clean = logits_of(model, ids)
    expected = {
        "ids": ids.tolist(),
        "positions": POSITIONS,
        "logits": [[float(f"{x:.9g}") for x in clean[p].tolist()] for p in POSITIONS],
        "sum_deviation": deviation(model, ids, clean, perturb_sums),
        "input_deviation": deviation(model, ids, clean, perturb_inputs),
    }

    folder = os.path.join(ROOT, name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    tensors = {k: v.to(dtype).contiguous() for k, v in model.state_dict().items()
               if not (k == "lm_head.weight" and model.config.tie_word_embeddings)}
    save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    config.torch_dtype = str(dtype).split(".")[1]
    config.architectures = ["LlamaForCausalLM"]
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config.to_diff_dict(), f, indent=1)
        f.write("\n")
    with open(os.path.join(folder, "expected.json"), "w") as f:
        json.dump(expected, f)
        f.write("\n")
    print(name, "logit range", clean.min().item(), clean.max().item(), "deviations",
          expected["sum_deviation"], expected["input_deviation"], file=sys.stderr)


for seed, (model_name, (model_changes, model_dtype)) in enumerate(MODELS.items()):
    make(model_name, model_changes, model_dtype, seed)
