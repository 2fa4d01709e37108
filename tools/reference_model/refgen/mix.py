"""Streams of generated documents in fixed shares of the parts, cut into shards that can be made in parallel."""

from . import compute, copying, recall, relations, stories
from .rng import Rng, hash64

# Percent of the generated characters.
SHARES = {"recall": 22, "compute": 14, "copy": 26, "relations": 34, "stories": 4}
MAKERS = {"recall": recall.document, "compute": compute.document, "copy": copying.document,
          "relations": relations.document, "stories": stories.document}
SEPARATOR = "<|endoftext|>"


def documents(world, split, shard, chars):
    """Yields (part, text) until `chars` characters are out. The part furthest behind its share comes next."""
    rng = Rng(world.seed, "documents", split, shard)
    written = dict.fromkeys(SHARES, 0)
    total = 0
    while total < chars:
        part = min(SHARES, key=lambda p: written[p] / SHARES[p])
        # Stories and copy passages are long: among equals draw at random, so that no fixed order can be learnt.
        if total and rng.chance(50):
            part = rng.choice([p for p in SHARES if written[p] * 100 <= SHARES[p] * (total + 2000)])
        text = MAKERS[part](world, rng, split)
        written[part] += len(text)
        total += len(text)
        yield part, text


def digest(texts):
    """Order-dependent 64-bit digest of an iterable of strings, for the recorded hashes."""
    h = 0
    for text in texts:
        h = hash64(h, text)
    return f"{h:016x}"
