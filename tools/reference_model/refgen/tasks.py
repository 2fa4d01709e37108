"""Task files: multiple-choice items for any scorer that can sum the log-likelihood of a continuation.

One JSON object a line:
  id       unique name
  part     "recall" | "compute" | "copy" | "relations"
  context  text, without trailing white space
  choices  list of strings, each begins with one space
  answer   index of the right choice
  kind     sub-category; recall also has held_out ("combination" | "phrasing"), copy has distance (in units)
Score a choice by the sum of log p(token) over the tokens of context + choice that follow those of context;
the choice with the largest sum is the model's answer.
"""

import json

from . import compute, copying, recall, relations
from .rng import Rng

COUNTS = {"recall": 400, "compute": 400, "relations": 400, "copy": 100}  # copy: for each distance
PARTS = tuple(COUNTS)


def _finish(part, number, raw, rng):
    choices = rng.shuffle([raw["right"]] + raw["wrong"])
    if len(set(choices)) != 4:
        return None
    out = {"id": f"{part}-{number:04d}", "part": part, "context": raw["context"], "choices": choices,
           "answer": choices.index(raw["right"]), "kind": raw["kind"]}
    for extra in ("held_out", "distance"):
        if extra in raw:
            out[extra] = raw[extra]
    return out


def items(world, part, split="test", count=None):
    """Items of one part, without repeats."""
    rng = Rng(world.seed, "tasks", part, split)
    count = count or COUNTS[part]
    makers = {"recall": recall.item, "compute": compute.item, "relations": relations.item}
    if part == "copy":
        plan = [lambda d=d: copying.item(world, rng, split, d) for d in copying.DISTANCES for _ in range(count)]
    else:
        plan = [lambda: makers[part](world, rng, split)] * count
    out, seen = [], set()
    for make in plan:
        while True:
            item = _finish(part, len(out), make(), rng)
            if item and item["context"] not in seen:
                break
        seen.add(item["context"])
        out.append(item)
    return out


def write(world, part, path, split="test", count=None):
    with open(path, "w", encoding="utf-8", newline="\n") as f:
        for item in items(world, part, split, count):
            f.write(json.dumps(item, ensure_ascii=True, separators=(",", ":")) + "\n")
