"""Scores of a model: multiple-choice tasks, perplexity, activation density. Shared by training and evaluation."""

import json
import math
import os

import torch
import torch.nn.functional as F


def read_tasks(folder):
    items = []
    for part in ("recall", "compute", "copy", "relations"):
        with open(os.path.join(folder, f"{part}.jsonl"), encoding="utf-8") as f:
            items += [json.loads(line) for line in f]
    return items


def encode_item(tokenizer, item):
    """Token ids of the context, and for each choice the ids that context + choice adds to it."""
    context = tokenizer.encode(item["context"]).ids
    out = []
    for choice in item["choices"]:
        whole = tokenizer.encode(item["context"] + choice).ids
        if whole[:len(context)] != context:
            raise ValueError(f"{item['id']}: the context's tokens change when {choice!r} follows")
        out.append(whole[len(context):])
    return context, out


def row_losses(model, ids):
    """Negative log-likelihood (nats, float32) of every token but the first of each row."""
    logits = model.logits(model(ids[:, :-1])).float()
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(len(ids), -1)


@torch.no_grad()
def choice_scores(model, tokenizer, items, device, rows_per_batch=32):
    """For each item the summed log-likelihood of each choice."""
    rows = []
    for n, item in enumerate(items):
        context, choices = encode_item(tokenizer, item)
        for c, ids in enumerate(choices):
            if len(context) + len(ids) > model.config.max_position_embeddings:
                raise ValueError(f"{item['id']} needs {len(context) + len(ids)} tokens")
            rows.append((len(context) + len(ids), len(ids), n, c, context + ids))
    rows.sort(key=lambda r: r[0])  # rows of one length together: little padding
    scores = [[0.0] * len(item["choices"]) for item in items]
    for start in range(0, len(rows), rows_per_batch):
        batch = rows[start:start + rows_per_batch]
        width = batch[-1][0]
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        for i, row in enumerate(batch):
            ids[i, :row[0]] = torch.tensor(row[4])
        # Only the positions before a choice's tokens are scored: position p predicts token p + 1.
        where = [(i, p) for i, row in enumerate(batch) for p in range(row[0] - row[1] - 1, row[0] - 1)]
        at, position = (torch.tensor(x) for x in zip(*where))
        hidden = model(ids[:, :-1].to(device))[at.to(device), position.to(device)]
        losses = F.cross_entropy(model.logits(hidden).float(), ids[at, position + 1].to(device), reduction="none")
        for (i, _), loss in zip(where, losses.double().tolist()):
            scores[batch[i][2]][batch[i][3]] -= loss
    return scores


def groups_of(item):
    yield item["part"]
    for extra in ("distance", "held_out"):
        if extra in item:
            yield f"{item['part']} {extra} {item[extra]}"
    yield f"{item['part']} kind {item['kind'].split('.')[0]}"


def accuracy_table(items, scores):
    """{group: {items, accuracy, standard_error, chance}}; groups are parts, distances, kinds of hold-out, kinds."""
    table = {}
    for item, score in zip(items, scores):
        right = max(range(len(score)), key=score.__getitem__) == item["answer"]
        for group in groups_of(item):
            entry = table.setdefault(group, {"items": 0, "accuracy": 0, "chance": 0.0})
            entry["items"] += 1
            entry["accuracy"] += right
            entry["chance"] += 1 / len(score)
    for entry in table.values():
        n, p = entry["items"], entry["accuracy"] / entry["items"]
        entry.update(accuracy=round(p, 4), standard_error=round(math.sqrt(p * (1 - p) / n), 4),
                     chance=round(entry["chance"] / n, 4))
    return table


@torch.no_grad()
def rows_loss(model, rows, lengths, device, rows_per_batch=16):
    """Mean loss per token over rows of which `length` tokens count, each row on its own."""
    total, count = 0.0, 0
    for start in range(0, len(rows), rows_per_batch):
        ids = torch.from_numpy(rows[start:start + rows_per_batch].astype("int64")).to(device)
        losses = row_losses(model, ids).double().cpu()
        valid = torch.arange(1, ids.shape[1])[None, :] < torch.from_numpy(lengths[start:start + rows_per_batch])[:, None]
        total += losses[valid].sum().item()
        count += int(valid.sum())
    return total / count


@torch.no_grad()
def perplexity(model, ids, device):
    """Disjoint windows of the model's context; the first token of a window is not scored."""
    width = model.config.max_position_embeddings
    total, count = 0.0, 0
    for start in range(0, len(ids) - 1, width):
        window = ids[start:start + width]
        if len(window) < 2:
            break
        losses = row_losses(model, torch.tensor([window], device=device)).double()
        total += losses.sum().item()
        count += losses.numel()
    return {"tokens_scored": count, "loss": round(total / count, 6), "perplexity": round(math.exp(total / count), 4)}


@torch.no_grad()
def activation_density(model, ids, device, tokens=8192):
    """Share of the FFN's hidden values (act(gate) * up) that are not zero, for each layer."""
    width = model.config.max_position_embeddings
    live, seen, hooks = [0] * len(model.model.layers), [0] * len(model.model.layers), []
    for n, layer in enumerate(model.model.layers):
        def count(_, inputs, n=n):
            live[n] += int((inputs[0] != 0).sum())
            seen[n] += inputs[0].numel()
        hooks.append(layer.mlp.down_proj.register_forward_pre_hook(count))
    for start in range(0, min(tokens, len(ids) - width + 1), width):
        model(torch.tensor([ids[start:start + width]], device=device))
    for hook in hooks:
        hook.remove()
    return [round(a / b, 4) for a, b in zip(live, seen)]
