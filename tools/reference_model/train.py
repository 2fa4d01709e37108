#!/usr/bin/env python3
"""Trains one reference model on the rows that prepare.py made and saves it as a Hugging Face directory.

  train.py --data DATA --out harrow-tiny      --act silu
  train.py --data DATA --out harrow-tiny-relu --act relu --trunk harrow-tiny/trunk.pt

The loop is Muon (matrices of the blocks) and AdamW (embedding, norms) over rows in random order, in bfloat16
autocast with float32 master weights. The learning rate warms up, stays, and falls in a straight line to zero over
the last --decay of the run. Where it begins to fall, the state is kept as trunk.pt: a sibling that is given it with
--trunk sees the same rows in the same order from there on, with another activation. Runs on CPU and CUDA. A
checkpoint is written every few minutes; the same command started again goes on from it.
Beside the model: train.csv (loss curve) and train.json (settings, tokens, speed, final losses).
"""

import argparse
import csv
import json
import math
import os
import shutil
import time

import numpy as np
import tokenizers
import torch
import torch.nn.functional as F

import model as llama
import scoring

SIZES = {  # hidden, FFN, layers, heads, KV heads: every width a multiple of 128
    "small": (256, 640, 6, 4, 2),
    "base": (384, 896, 6, 6, 2),
}


def learning_rate(progress, peak, warmup, decay):
    return peak * min(1.0, progress / warmup, (1 - progress) / decay)


def orthogonalize(update, steps=5):
    """The nearest (semi-)orthogonal matrix, roughly: Newton-Schulz on the quintic of Jordan et al., "Muon", 2024,
    whose coefficients push every singular value into about [0.7, 1.2]."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = update.bfloat16()
    wide = x.shape[0] > x.shape[1]
    if wide:
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return (x.T if wide else x).float()


class Muon(torch.optim.Optimizer):
    """Momentum whose step is orthogonalized, for the matrices of the blocks. The step is scaled to the root mean
    square that AdamW's has (0.2, Liu et al. 2025, "Muon is scalable"), so that one learning rate serves both."""

    def __init__(self, params, lr, weight_decay, momentum=0.95):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalize(p.grad.lerp(state["momentum"], group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * 0.2 * max(p.shape) ** 0.5)


def make_optimizers(model, args):
    """Muon for the matrices of the blocks, AdamW for the embedding and the norms."""
    blocks = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.dim() != 2 or "embed" in name]
    adam = {"betas": (0.9, 0.95), "eps": 1e-8, **({"fused": True} if args.device == "cuda" else {})}
    return [Muon(blocks, args.lr, args.weight_decay), torch.optim.AdamW(rest, lr=args.lr, weight_decay=0.0, **adam)]


def loss_of(model, ids, lengths):
    """Mean loss over the tokens that count: those before the padding of a row."""
    hidden = model(ids[:, :-1])
    targets = ids[:, 1:].clone()
    position = torch.arange(1, ids.shape[1], device=ids.device)
    targets[position[None, :] >= lengths[:, None]] = -100
    return F.cross_entropy(model.logits(hidden).float().flatten(0, 1), targets.flatten(), ignore_index=-100)


def hardware(device):
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            return next(line.split(":")[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return "CPU"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--act", choices=("silu", "relu"), default="silu")
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--rows", type=int, default=8, help="rows per step")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--warmup", type=float, default=0.0214, help="share of the run")
    parser.add_argument("--decay", type=float, default=0.30, help="share of the run, at its end")
    parser.add_argument("--trunk", help="trunk.pt of the sibling to branch off from")
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--epochs", type=float, default=1.4, help="passes over the rows")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--eval-every", type=int, default=500, help="steps between looks at the validation rows")
    parser.add_argument("--save-minutes", type=float, default=5)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    torch.backends.cuda.matmul.allow_tf32 = True
    os.makedirs(args.out, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(args.data, name), os.path.join(args.out, name))
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(args.out, "tokenizer.json"))
    end = tokenizer.token_to_id("<|endoftext|>")
    train = dict(np.load(os.path.join(args.data, "train.npz")))
    rows, lengths = train["rows"], train["length"]
    valid = dict(np.load(os.path.join(args.data, "valid.npz")))
    tasks = scoring.read_tasks(os.path.join(args.data, "tasks", "valid"))

    hidden, ffn, layers, heads, kv = SIZES[args.size]
    config = llama.Config(vocab_size=tokenizer.get_vocab_size(), hidden_size=hidden, intermediate_size=ffn,
                          num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv,
                          max_position_embeddings=rows.shape[1], hidden_act=args.act)
    model = llama.Llama(config).to(args.device)
    optimizers = make_optimizers(model, args)
    run = torch.compile(model) if args.compile else model
    run.logits, run.config = model.logits, config
    total_steps = int(len(rows) * args.epochs) // args.rows
    autocast = lambda: torch.autocast(args.device, dtype=torch.bfloat16)  # noqa: E731

    step, tokens, spent = 0, 0, 0.0
    state_path, curve_path = os.path.join(args.out, "checkpoint.pt"), os.path.join(args.out, "train.csv")
    branch_path = os.path.join(args.out, "trunk.pt")
    if os.path.exists(state_path) or args.trunk:
        state = torch.load(state_path if os.path.exists(state_path) else args.trunk, map_location=args.device)
        model.load_state_dict(state["model"])
        for optimizer, stored in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(stored)
        step, tokens, spent = state["step"], state["tokens"], state["spent"]
        print(f"resumed at step {step}", flush=True)
    if not os.path.exists(state_path):
        with open(curve_path, "w", newline="") as f:
            csv.writer(f).writerow(("step", "tokens", "seconds", "lr", "train_loss", "valid_generated", "valid_prose"))
    print(f"{model.parameter_count()} parameters, {len(rows)} rows, {total_steps} steps, {args.device}", flush=True)

    def checkpoint(path=state_path):
        torch.save({"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers],
                    "step": step, "tokens": tokens, "spent": spent}, path + ".tmp")
        os.replace(path + ".tmp", path)

    def look(count):
        """Validation losses (generated, prose) and, on a thinned task set, accuracies per part."""
        model.eval()
        losses = []
        with autocast():
            for wanted in (False, True):
                pick = np.flatnonzero(valid["prose"] == wanted)[:count]
                losses.append(scoring.rows_loss(model, valid["rows"][pick], valid["length"][pick], args.device))
            few = tasks[::20 if count == 64 else 4]  # all of them are the business of evaluate.py
            table = scoring.accuracy_table(few, scoring.choice_scores(model, tokenizer, few, args.device))
        model.train()
        return losses, table

    order_epoch, order = -1, None
    started, last_save, last_log = time.time() - spent, time.time(), time.time()
    recent, recent_tokens = [], 0
    model.train()
    while True:
        spent = time.time() - started
        progress = step / total_steps
        if progress >= 1:
            break
        per_epoch = len(rows) // args.rows
        if step // per_epoch != order_epoch:
            order_epoch = step // per_epoch
            order = np.random.Generator(np.random.PCG64([args.seed, order_epoch])).permutation(len(rows))
        pick = order[step % per_epoch * args.rows:][:args.rows]
        ids = torch.from_numpy(rows[pick].astype(np.int64)).to(args.device)
        counted = torch.from_numpy(lengths[pick]).to(args.device)
        if progress >= 1 - args.decay and not args.trunk and not os.path.exists(branch_path):
            checkpoint(branch_path)
        lr = learning_rate(progress, args.lr, args.warmup, args.decay)
        for group in (g for optimizer in optimizers for g in optimizer.param_groups):
            group["lr"] = lr
        with autocast():
            loss = loss_of(run, ids, counted)
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        tokens += int(lengths[pick].sum())
        recent_tokens += int(lengths[pick].sum())
        recent.append(loss.detach())
        if step % 50 == 0 or step == 1:
            mean = torch.stack(recent).mean().item()
            if not math.isfinite(mean):
                raise SystemExit(f"loss is {mean} at step {step}")
            now = time.time()
            print(f"step {step}/{total_steps} ({progress:.1%}) loss {mean:.4f} lr {lr:.2e} "
                  f"{recent_tokens / (now - last_log):.0f} tok/s", flush=True)
            record = [step, tokens, round(now - started, 1), f"{lr:.3e}", f"{mean:.4f}", "", ""]
            if step % args.eval_every == 0:
                losses, table = look(64)
                record[-2:] = [f"{x:.4f}" for x in losses]
                print("  valid " + " ".join(record[-2:]) + " | " + " ".join(
                    f"{k}={v['accuracy']:.2f}" for k, v in table.items()), flush=True)
            with open(curve_path, "a", newline="") as f:
                csv.writer(f).writerow(record)
            recent, recent_tokens, last_log = [], 0, time.time()
        if time.time() - last_save > args.save_minutes * 60:
            checkpoint()
            last_save = time.time()
    checkpoint()
    llama.save(model, args.out, end)

    model = llama.load(args.out, args.device)  # from here on the weights as stored: BF16
    losses, _ = look(256)
    seen = order[:400] if order is not None else np.arange(512)
    gap = {}
    for name, wanted in (("generated", False), ("prose", True)):
        pick = seen[train["prose"][seen] == wanted]
        with autocast():
            gap[name] = scoring.rows_loss(model, rows[pick], lengths[pick], args.device)
    report = {"arguments": {k: v for k, v in vars(args).items() if k not in ("data", "out", "trunk")},
              "parameters": model.parameter_count(), "steps": step, "tokens": tokens, "seconds": round(spent, 1),
              "tokens_per_second": round(tokens / spent), "torch": torch.__version__, "hardware": hardware(args.device),
              "train_loss": {k: round(v, 4) for k, v in gap.items()},
              "valid_loss": {"generated": round(losses[0], 4), "prose": round(losses[1], 4)}}
    with open(os.path.join(args.out, "train.json"), "w", encoding="utf-8") as f:
        json.dump(report, f, indent=2)
        f.write("\n")
    print(json.dumps(report, indent=2), flush=True)


if __name__ == "__main__":
    main()
