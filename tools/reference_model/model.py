"""LLaMA in plain PyTorch, with the tensor names, shapes and arithmetic of Hugging Face's LlamaForCausalLM."""

import dataclasses
import json
import os

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclasses.dataclass
class Config:
    vocab_size: int
    hidden_size: int = 256
    intermediate_size: int = 640
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    max_position_embeddings: int = 512
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0

    @property
    def head_dim(self):
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def load(cls, folder):
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
            stored = json.load(f)
        return cls(**{f.name: stored[f.name] for f in dataclasses.fields(cls)})

    def to_huggingface(self, end_token):
        return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **dataclasses.asdict(self),
                "head_dim": self.head_dim, "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0,
                "rope_scaling": None, "pretraining_tp": 1, "tie_word_embeddings": True, "initializer_range": 0.02,
                "bos_token_id": end_token, "eos_token_id": end_token, "use_cache": True, "torch_dtype": "bfloat16"}


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


def rope_tables(config, length, device):
    inverse = config.rope_theta ** (-torch.arange(0, config.head_dim, 2, device=device).float() / config.head_dim)
    angle = torch.outer(torch.arange(length, device=device).float(), inverse)
    angle = torch.cat((angle, angle), dim=-1)  # half-split: dimension i turns with dimension i + head_dim / 2
    return angle.cos(), angle.sin()


def rotate(x, cos, sin):
    low, high = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat((-high, low), dim=-1) * sin.to(x.dtype)


def causal_attention(q, k, v, block=128):
    """Attention in blocks of queries, each against the keys up to its end: on CPU three times as fast, forward
    and backward, as PyTorch 2.8's scaled_dot_product_attention, and half the arithmetic of the full square."""
    batch, heads, length, dim = q.shape
    q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
    out = []
    for start in range(0, length, block):
        stop = min(start + block, length)
        mask = torch.full((stop - start, stop), float("-inf"), dtype=q.dtype, device=q.device).triu(start + 1)
        scores = torch.baddbmm(mask, q[:, start:stop], k[:, :stop].transpose(1, 2), alpha=dim ** -0.5)
        out.append(torch.bmm(torch.softmax(scores, dim=-1), v[:, :stop]))
    return torch.cat(out, dim=1).view(batch, heads, length, dim)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads, self.kv_heads, self.dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, self.kv_heads * self.dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, self.kv_heads * self.dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.dim, config.hidden_size, bias=False)

    def forward(self, x, cos, sin):
        batch, length, _ = x.shape

        def split(y, heads):
            return y.view(batch, length, heads, self.dim).transpose(1, 2)

        q = rotate(split(self.q_proj(x), self.heads), cos, sin)
        k = rotate(split(self.k_proj(x), self.kv_heads), cos, sin)
        v = split(self.v_proj(x), self.kv_heads)
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        if x.is_cuda:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            y = causal_attention(q, k, v)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.act = {"silu": F.silu, "relu": F.relu}[config.hidden_act]

    def forward(self, x):
        return self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Llama(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.model = Body(config)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                # Layers that write to the residual stream start smaller, so that its size does not grow with depth.
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=0.02 / (2 * config.num_hidden_layers) ** 0.5 if deep else 0.02)

    def forward(self, ids):
        """Hidden states after the last norm; `logits` turns them into scores."""
        cos, sin = rope_tables(self.config, ids.shape[1], ids.device)
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return self.model.norm(x)

    def logits(self, hidden):
        return F.linear(hidden, self.model.embed_tokens.weight)

    def parameter_count(self):
        return sum(p.numel() for p in self.parameters())


def save(model, folder, end_token):
    """Writes config.json, generation_config.json and BF16 model.safetensors beside the tokenizer's files."""
    from safetensors.torch import save_file

    os.makedirs(folder, exist_ok=True)
    tensors = {k: v.detach().to("cpu", torch.bfloat16).contiguous() for k, v in model.state_dict().items()}
    path = os.path.join(folder, "model.safetensors")
    save_file(tensors, path, metadata={"format": "pt"})
    os.chmod(path, 0o644)  # the library writes it for the owner alone
    generation = {"bos_token_id": end_token, "eos_token_id": end_token, "do_sample": False}
    for name, content in (("config.json", model.config.to_huggingface(end_token)), ("generation_config.json", generation)):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            json.dump(content, f, indent=2)
            f.write("\n")


def load(folder, device="cpu"):
    """Weights as stored (BF16), widened to float32."""
    from safetensors.torch import load_file

    model = Llama(Config.load(folder))
    model.load_state_dict({k: v.float() for k, v in load_file(os.path.join(folder, "model.safetensors")).items()})
    return model.to(device).eval()
