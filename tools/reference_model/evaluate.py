#!/usr/bin/env python3
"""Scores a saved reference model in PyTorch, independently of Harrow's C++: float32 from the stored BF16 weights.

  evaluate.py --model models/harrow-tiny --tasks models/tasks [--prose FILE.txt.xz] [--golden OUT.json] [--json OUT]

Prints accuracy for each part (copy for each distance, recall for each kind of hold-out) beside chance and
standard error, perplexity of the generated test text and, where it is at hand, of held-back prose (disjoint
windows of the model's context, the first token of a window not scored, no token added), and the share of
FFN activations that are not zero. --golden writes the choice log-likelihoods of the first items of each part,
which `harrow eval` is tested against. --check-transformers compares logits with Hugging Face's LlamaForCausalLM.
"""

import argparse
import hashlib
import io
import json
import lzma
import os

import tokenizers
import torch

import model as llama
import scoring
from refgen import mix
from refgen.world import World

TEST_CHARS = 200_000


def generated_text(split, seed, chars=TEST_CHARS):
    """The text that `generate.py text` writes for this split, shard 0."""
    out = io.StringIO()
    for _, text in mix.documents(World(seed=seed), split, 0, chars):
        out.write(f"{text}{mix.SEPARATOR}\n")
    return out.getvalue()


def token_ids(tokenizer, text):
    """Ids of a text whose documents end with a separator line; the line break after it is not text."""
    end = tokenizer.token_to_id(mix.SEPARATOR)
    ids = []
    for document in text.split(mix.SEPARATOR + "\n"):
        if document:
            ids += tokenizer.encode(document).ids + [end]
    return ids


def text_scores(model, tokenizer, text, device):
    ids = token_ids(tokenizer, text)
    return {"sha256": hashlib.sha256(text.encode("utf-8")).hexdigest(), "tokens": len(ids),
            **scoring.perplexity(model, ids, device)}, ids


def group_order(group):
    """Parts first, then their subdivisions; distances by number."""
    words = group.split()
    return words[0], words[1:2], int(words[-1]) if words[-1].isdigit() else 0, group


def golden(model, tokenizer, items, scores, table, texts, per_part=13):
    """A small file of per-item numbers: what an independent implementation must reproduce."""
    picked, seen = [], {}
    for item, score in zip(items, scores):
        # Copy items come ordered by distance: take every fortieth, so that all distances are there.
        number = seen[item["part"]] = seen.get(item["part"], -1) + 1
        step = 40 if item["part"] == "copy" else 1
        if number % step == 0 and number // step < per_part:
            context, choices = scoring.encode_item(tokenizer, item)
            picked.append({"id": item["id"], "part": item["part"], "context_tokens": len(context),
                           "choice_tokens": [len(c) for c in choices],
                           "log_likelihood": [round(s, 6) for s in score], "answer": item["answer"]})
    return {"arithmetic": "float32 from BF16 weights, PyTorch " + torch.__version__, "items": picked,
            "correct": {part: round(e["accuracy"] * e["items"]) for part, e in table.items() if " " not in part},
            "text": texts}


def check_transformers(folder, model, ids):
    from transformers import AutoModelForCausalLM

    other = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    batch = torch.tensor([ids])
    with torch.no_grad():
        ours, theirs = model.logits(model(batch)), other(batch).logits
    return (ours - theirs).abs().max().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tasks", required=True)
    parser.add_argument("--prose", help="held-back prose, .txt or .txt.xz")
    parser.add_argument("--seed", type=int, default=1, help="seed of the generated text")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", help="write all scores here")
    parser.add_argument("--golden", help="write per-item log-likelihoods here")
    parser.add_argument("--check-transformers", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    model = llama.load(args.model, args.device)
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(args.model, "tokenizer.json"))

    items = scoring.read_tasks(args.tasks)
    scores = scoring.choice_scores(model, tokenizer, items, args.device)
    table = scoring.accuracy_table(items, scores)
    print(f"{'group':34} {'items':>5} {'accuracy':>9} {'s.e.':>6} {'chance':>7}")
    for group in sorted(table, key=group_order):
        e = table[group]
        print(f"{group:34} {e['items']:5} {e['accuracy']:9.3f} {e['standard_error']:6.3f} {e['chance']:7.2f}")

    texts, ids = {}, None
    texts["generated test"], ids = text_scores(model, tokenizer, generated_text("test", args.seed), args.device)
    if args.prose and os.path.exists(args.prose):
        opener = lzma.open if args.prose.endswith(".xz") else open
        with opener(args.prose, "rt", encoding="utf-8") as f:
            texts["held-back prose"], prose_ids = text_scores(model, tokenizer, f.read(), args.device)
    for name, t in texts.items():
        print(f"{name}: perplexity {t['perplexity']:.3f} (loss {t['loss']:.4f}, {t['tokens_scored']} tokens)")
    density = {"generated test": scoring.activation_density(model, ids, args.device)}
    if "held-back prose" in texts:
        density["held-back prose"] = scoring.activation_density(model, prose_ids, args.device)
    for name, d in density.items():
        print(f"FFN activations not zero, {name}: " + " ".join(f"{x:.3f}" for x in d))
    if args.check_transformers:
        difference = check_transformers(args.model, model, ids[:256])
        print(f"largest difference of a logit from transformers: {difference:.2e}")
        if difference > 1e-3:
            raise SystemExit("transformers disagrees")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump({"model": os.path.basename(os.path.normpath(args.model)), "parameters": model.parameter_count(),
                       "tasks": table, "texts": texts, "activation_density": density}, f, indent=2)
            f.write("\n")
    if args.golden:
        with open(args.golden, "w", encoding="utf-8") as f:
            json.dump(golden(model, tokenizer, items, scores, table, texts), f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
