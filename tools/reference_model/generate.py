#!/usr/bin/env python3
"""Writes the generated text and the task files of Harrow's reference models. Standard library only.

  generate.py text  --split train --shards 8 --chars 8000000 --out DIR    DIR/train-00.txt ...
  generate.py text  --split test  --chars 200000 --out DIR                held-out text for perplexity
  generate.py tasks --out DIR                                             DIR/recall.jsonl, compute, copy, relations
  generate.py sample --part copy -n 3                                     look at documents

Documents are separated by a line <|endoftext|>. Output depends on the arguments alone: shard i of a split
is the same however many shards or processes there are.
"""

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor

from refgen import mix, tasks
from refgen.rng import Rng
from refgen.world import World


def build_world(args):
    return World(seed=args.seed, people=args.people, places=args.places, things=args.things)


def write_shard(job):
    args, shard = job
    world = build_world(args)
    path = os.path.join(args.out, f"{args.split}-{shard:02d}.txt")
    with open(path, "w", encoding="utf-8", newline="\n") as f:
        for _, text in mix.documents(world, args.split, shard, args.chars):
            f.write(f"{text}{mix.SEPARATOR}\n")
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("text", "tasks", "sample"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--people", type=int, default=600, help="difficulty of recall: entities to be learnt")
    parser.add_argument("--places", type=int, default=150)
    parser.add_argument("--things", type=int, default=250)
    parser.add_argument("--split", choices=("train", "valid", "test"), default="test")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--chars", type=int, default=200000, help="characters per shard")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--count", type=int, default=None, help="task items per part (copy: per distance)")
    parser.add_argument("--part", choices=tuple(mix.SHARES), default="recall")
    parser.add_argument("-n", type=int, default=3)
    parser.add_argument("--out", default=".")
    args = parser.parse_args()

    if args.what == "sample":
        world, rng = build_world(args), Rng(args.seed, "sample", args.part)
        for _ in range(args.n):
            sys.stdout.write(mix.MAKERS[args.part](world, rng, args.split) + mix.SEPARATOR + "\n")
        return
    os.makedirs(args.out, exist_ok=True)
    if args.what == "tasks":
        world = build_world(args)
        for part in tasks.PARTS:
            tasks.write(world, part, os.path.join(args.out, f"{part}.jsonl"), args.split, args.count)
        return
    with ProcessPoolExecutor(max_workers=min(args.jobs, args.shards)) as pool:
        for path in pool.map(write_shard, [(args, i) for i in range(args.shards)]):
            print(path)


if __name__ == "__main__":
    main()
