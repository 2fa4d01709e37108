#!/usr/bin/env python3
"""Checks that the generator and the tokenizer are still the ones that the reference models were trained with.

Standard library only, a few seconds. Compares with hashes.json: digests of a fixed sample of every part and
split, of the task files and of the models' tokenizer.json. Also checks what the generator promises: splits that
do not share a keyed combination, filler without keys or values, well-formed task items, shipped task files equal
to what the generator writes. `--update` records the present hashes (then the models have to be trained again).
"""

import argparse
import hashlib
import json
import os
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, HERE)

from refgen import compute, copying, mix, names, recall, relations, stories, tasks  # noqa: E402
from refgen.rng import Rng, hash64, split_of  # noqa: E402
from refgen.world import PHRASES, World  # noqa: E402

RECORD = os.path.join(HERE, "hashes.json")
TASKS = os.path.join(ROOT, "models", "tasks")
MODELS = [os.path.join(ROOT, "models", name) for name in ("harrow-tiny", "harrow-tiny-relu")]
SAMPLE = 100


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def task_text(world, part, split="test"):
    return "".join(json.dumps(i, ensure_ascii=True, separators=(",", ":")) + "\n"
                   for i in tasks.items(world, part, split))


def generator_hashes(world):
    out = {"world": mix.digest(f"{e.name}|{a}|{e.facts[a]}" for e, a in world.facts)}
    for split in ("train", "valid", "test"):
        for part, make in mix.MAKERS.items():
            rng = Rng(world.seed, "hash", split, part)
            out[f"{split} {part}"] = mix.digest(make(world, rng, split) for _ in range(SAMPLE))
        out[f"{split} stream"] = mix.digest(t for _, t in mix.documents(world, split, 0, 100_000))
    for part in tasks.PARTS:
        out[f"tasks {part}"] = hashlib.sha256(task_text(world, part).encode()).hexdigest()
    return out


class Recorded(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with open(RECORD, encoding="utf-8") as f:
            cls.recorded = json.load(f)
        cls.world = World()

    def test_generator(self):
        self.assertEqual(generator_hashes(self.world), self.recorded["generator"])

    def test_shipped_task_files(self):
        for part in tasks.PARTS:
            path = os.path.join(TASKS, f"{part}.jsonl")
            with open(path, encoding="utf-8", newline="") as f:
                self.assertEqual(f.read(), task_text(self.world, part), path)

    def test_tokenizer_of_the_models(self):
        for folder in MODELS:
            self.assertEqual(sha256(os.path.join(folder, "tokenizer.json")), self.recorded["tokenizer.json"], folder)


class Generator(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = World()

    def test_rng_is_splitmix64(self):
        rng = Rng("x")
        rng._state = 1234567  # published first outputs for this seed
        self.assertEqual([rng.next64() for _ in range(3)],
                         [6457827717110365317, 3203168211198807973, 9817491932198370423])

    def test_names_are_unique(self):
        found = [e.name for e in self.world.entities] + self.world.first_names + self.world.lands + self.world.rivers
        self.assertEqual(len(found), len(set(found)))

    def test_every_combination_has_one_split(self):
        counts = {"train": 0, "valid": 0, "test": 0}
        for a in range(100):
            for b in range(a, 100):
                counts[split_of("add", a, b)] += 1
        self.assertGreater(counts["valid"], 100)
        self.assertGreater(counts["test"], 200)
        self.assertGreater(counts["train"], 4300)

    def test_held_out_sums_do_not_occur_in_training(self):
        rng = Rng(1, "leak")
        seen = {compute.problem(self.world, rng, "train", compute._sum)[1] for _ in range(5000)}
        asked = {i["context"] for i in tasks.items(self.world, "compute")}
        self.assertFalse(seen & asked)

    def test_held_out_relations_are_not_spelt_out_in_training(self):
        asked = {i["context"].rsplit("\n", 1)[1] + i["choices"][i["answer"]] + "."
                 for i in tasks.items(self.world, "relations") if i["kind"] == "inside"}
        self.assertGreater(len(asked), 50)
        rng = Rng(1, "leak")
        told = set()
        for _ in range(8000):
            told.update(relations.document(self.world, rng, "train").splitlines())
        # Of the 69,000 combinations of thing, holder and room these documents spell out thousands.
        self.assertGreater(sum(", and the " in line for line in told), 2000)
        self.assertFalse(asked & told)

    def test_held_out_questions_do_not_occur_in_training(self):
        asked = {i["context"] for i in tasks.items(self.world, "recall")}
        rng = Rng(1, "leak")
        for _ in range(5000):
            for line in recall.questions(self.world, rng, "train").splitlines():
                for context in (line, line.rsplit(" ", 1)[0], line.rsplit(" ", 2)[0]):
                    self.assertNotIn(context, asked)

    def test_held_out_phrasing_is_new(self):
        for attributes in PHRASES.values():
            for forms in attributes.values():
                self.assertFalse(set(forms["ask"]) & set(forms["ask_held"]))

    def test_filler_holds_no_key_or_value(self):
        used = set(names.OBJECTS + names.HOLDERS + names.ROOMS + names.ANIMALS)
        rng = Rng(1, "filler")
        for _ in range(2000):
            words = set(stories.scenery(rng).lower().strip(".").replace(",", "").split())
            self.assertFalse(words & used)

    def test_passages_stay_in_bounds(self):
        rng = Rng(1, "bounds")
        for _ in range(400):
            self.assertLessEqual(copying.units(copying.document(self.world, rng, "train")), copying.DOCUMENT_UNITS + 12)

    def test_items_are_well_formed(self):
        for part in tasks.PARTS:
            right = [0, 0, 0, 0]
            for item in tasks.items(self.world, part):
                self.assertEqual(len(set(item["choices"])), 4)
                self.assertTrue(all(c[0] == " " and c.strip() == c[1:] for c in item["choices"]))
                self.assertEqual(item["context"], item["context"].rstrip())
                right[item["answer"]] += 1
            self.assertLess(max(right), 0.33 * sum(right), part)

    def test_hash64_is_stable(self):
        self.assertEqual(hash64("split", "add", 3, 4), hash64("split", "add", "3", 4))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="record the present hashes")
    args, rest = parser.parse_known_args()
    if args.update:
        world = World()
        record = {"generator": generator_hashes(world)}
        tokenizer = os.path.join(MODELS[0], "tokenizer.json")
        record["tokenizer.json"] = sha256(tokenizer) if os.path.exists(tokenizer) else None
        with open(RECORD, "w", encoding="utf-8") as f:
            json.dump(record, f, indent=2)
            f.write("\n")
        return
    unittest.main(argv=[sys.argv[0]] + rest)


if __name__ == "__main__":
    main()
