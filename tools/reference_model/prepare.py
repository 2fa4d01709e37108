#!/usr/bin/env python3
"""Makes everything that training reads: generated text, tokenizer, and rows of token ids.

  prepare.py --prose ../shared/data/corpora/english --tokens 18000000 --out DATA

DATA then holds the tokenizer, the task files, `train.npz` and `valid.npz`. A row is exactly one context of
tokens. Generated documents are packed whole into rows (a passage whose key is far back must not be cut in
two); real prose is cut wherever a row ends. `length` says how many tokens of a row count.
The share of prose (default 25 %) is counted in tokens.
"""

import argparse
import bisect
import glob
import lzma
import os
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import tokenizers

import tokenizer as bpe
from refgen import mix, tasks
from refgen.world import World

SHARD_CHARS = 4_000_000
SLICE_CHARS = 2_000_000


def read_prose(path, chars):
    """Documents of a corpus file (.xz or plain), about `chars` characters of them."""
    opener = lzma.open if path.endswith(".xz") else open
    with opener(path, "rt", encoding="utf-8") as f:
        documents = f.read(chars).split(bpe.END + "\n")
    return [d for d in documents if d.strip()]


def generated_shard(job):
    seed, sizes, split, shard, chars = job
    return [text for _, text in mix.documents(World(seed, *sizes), split, shard, chars)]


def pack(documents, context, end):
    """Best fit: each row takes the longest waiting document that still fits, until nothing fits."""
    rows, lengths, waiting = [], [], []
    source = iter(documents)

    def refill():
        for ids in source:
            bisect.insort(waiting, (len(ids), ids))
            if len(waiting) >= 512:
                break

    refill()
    while waiting:
        row = []
        # The row begins with a document from the middle of the queue, so that every length gets to start one.
        row += waiting.pop(len(rows) * 7919 % len(waiting))[1]
        while waiting:
            i = bisect.bisect_right(waiting, (context - len(row) + 1,)) - 1
            if i < 0:
                break
            row += waiting.pop(i)[1]
        rows.append(row + [end] * (context - len(row)))
        lengths.append(len(row))
        refill()
    return rows, lengths


def _encode_generated(job):
    path, split_job, context = job
    tok = tokenizers.Tokenizer.from_file(path)
    end = tok.token_to_id(bpe.END)
    encoded = [e.ids + [end] for e in tok.encode_batch(generated_shard(split_job))]
    longest = max(map(len, encoded))
    if longest > context:
        raise ValueError(f"a generated document has {longest} tokens, the context has {context}")
    rows, lengths = pack(encoded, context, end)
    return np.array(rows, dtype=np.uint16), np.array(lengths, dtype=np.int32)


def _encode_prose(job):
    path, documents, context = job
    tok = tokenizers.Tokenizer.from_file(path)
    end = tok.token_to_id(bpe.END)
    ids = []
    for e in tok.encode_batch(documents):
        ids += e.ids
        ids.append(end)
    count = len(ids) // context
    return np.array(ids[:count * context], dtype=np.uint16).reshape(count, context)


def slices(documents, chars):
    part, size = [], 0
    for d in documents:
        part.append(d)
        size += len(d)
        if size >= chars:
            yield part
            part, size = [], 0
    if part:
        yield part


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prose", required=True, help="folder with train-0*.txt.xz and valid.txt.xz")
    parser.add_argument("--out", required=True)
    parser.add_argument("--tokens", type=int, default=18_000_000, help="different training tokens, prose included")
    parser.add_argument("--prose-share", type=float, default=0.25)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--pieces", type=int, default=3072)
    parser.add_argument("--tokenizer", help="folder of an existing tokenizer to use instead of training one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--people", type=int, default=600)
    parser.add_argument("--places", type=int, default=150)
    parser.add_argument("--things", type=int, default=250)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    sizes = (args.people, args.places, args.things)
    start = time.time()

    def say(text):
        print(f"{time.time() - start:6.1f} s  {text}", flush=True)

    shards = sorted(glob.glob(os.path.join(args.prose, "train-0*.txt.xz")))
    prose_tokens = int(args.tokens * args.prose_share)
    prose = []
    for path in shards:
        if sum(map(len, prose)) >= prose_tokens * 3.6:
            break
        prose += read_prose(path, 1 << 30)
        say(f"read {os.path.basename(path)}")
    # The tokenizer sees generated text and prose in the proportion of training.
    if args.tokenizer:
        bpe.save(tokenizers.Tokenizer.from_file(os.path.join(args.tokenizer, "tokenizer.json")), args.out, args.context)
    else:
        sample = generated_shard((args.seed, sizes, "train", 0, 6_000_000))
        part, size = [], 0
        for d in prose:
            part.append(d[:20000])
            size += len(part[-1])
            if size >= 4_000_000:
                break
        bpe.save(bpe.train(sample + part, args.pieces), args.out, args.context)
    path = os.path.join(args.out, "tokenizer.json")
    say("tokenizer ready")
    with ProcessPoolExecutor(max_workers=args.jobs) as pool:
        def generated(split, tokens):
            chars = int(tokens * 3.8)  # about 3.45 characters a token; the surplus is cut below
            jobs = [(path, (args.seed, sizes, split, i, min(SHARD_CHARS, chars - i * SHARD_CHARS)), args.context)
                    for i in range((chars + SHARD_CHARS - 1) // SHARD_CHARS)]
            rows, lengths = zip(*pool.map(_encode_generated, jobs))
            rows, lengths = np.concatenate(rows), np.concatenate(lengths)
            keep = np.searchsorted(np.cumsum(lengths), tokens) + 1
            return rows[:keep], lengths[:keep]

        def real(documents, tokens):
            jobs = [(path, part, args.context) for part in slices(documents, SLICE_CHARS)]
            rows = np.concatenate(list(pool.map(_encode_prose, jobs)))[:tokens // args.context]
            return rows, np.full(len(rows), args.context, dtype=np.int32)

        def save(name, tokens, documents):
            made = generated(name, int(tokens * (1 - args.prose_share)))
            read = real(documents, int(tokens * args.prose_share))
            rows, lengths = np.concatenate([made[0], read[0]]), np.concatenate([made[1], read[1]])
            is_prose = np.arange(len(rows)) >= len(made[0])
            order = np.random.Generator(np.random.PCG64(args.seed)).permutation(len(rows))
            np.savez(os.path.join(args.out, f"{name}.npz"), rows=rows[order], length=lengths[order],
                     prose=is_prose[order])
            say(f"{name}: {len(rows)} rows, {int(lengths.sum())} tokens, of these prose {int(read[1].sum())}; "
                f"rows of generated text are {made[1].mean() / args.context:.1%} full")

        save("train", args.tokens, prose)
        save("valid", 400_000, read_prose(os.path.join(args.prose, "valid.txt.xz"), 1 << 30))
    world = World(args.seed, *sizes)
    for split in ("valid", "test"):
        os.makedirs(os.path.join(args.out, "tasks", split), exist_ok=True)
        for part in tasks.PARTS:
            tasks.write(world, part, os.path.join(args.out, "tasks", split, f"{part}.jsonl"), split)
    say("task files ready")


if __name__ == "__main__":
    main()
