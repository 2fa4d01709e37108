#!/usr/bin/env python3
"""Trains the byte-level BPE tokenizer shared by both reference models. Needs the `tokenizers` package.

  tokenizer.py --text FILE... --out DIR [--pieces 3072]

Digits are split one by one, so that a number is the same tokens wherever it stands; everything else follows
GPT-2's byte-level rules. No token is added at the start or end of a text: <|endoftext|> separates documents.
"""

import argparse
import json
import os

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END = "<|endoftext|>"


def read_documents(path):
    with open(path, encoding="utf-8") as f:
        for document in f.read().split(END + "\n"):
            if document:
                yield document


def train(texts, pieces):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=pieces, special_tokens=[END], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save(tokenizer, out, context):
    os.makedirs(out, exist_ok=True)
    tokenizer.save(os.path.join(out, "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, "add_eos_token": False,
              "bos_token": END, "eos_token": END, "unk_token": None, "pad_token": None,
              "clean_up_tokenization_spaces": False, "model_max_length": context}
    with open(os.path.join(out, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f, indent=2)
        f.write("\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs="+", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--pieces", type=int, default=3072)
    parser.add_argument("--context", type=int, default=512)
    args = parser.parse_args()
    save(train((d for path in args.text for d in read_documents(path)), args.pieces), args.out, args.context)


if __name__ == "__main__":
    main()
