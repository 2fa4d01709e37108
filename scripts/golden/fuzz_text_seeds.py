"""Writes fuzz/seeds/fuzz_tokenizer_json and fuzz/seeds/fuzz_sentencepiece from tests/golden.

Every file there was trained on our own texts by tokenizers.py. A tokenizer.json seed is, as the fuzz
target expects it, the compact JSON, NUL, a tokenizer_config.json, NUL, a text to encode.

    python3 scripts/golden/fuzz_text_seeds.py
"""

import json
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden"
CONFIGS = {
    "gpt2": {"eos_token": "<|endoftext|>", "add_eos_token": True},
    "llama3": {"bos_token": {"content": "<|begin|>"}, "add_bos_token": False,
               "added_tokens_decoder": {"405": {"content": "<new>", "special": True}}},
    "spaces": {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True},
}
TEXT = "Hello wörld 123 return <new>     \n🙂<|endoftext|></s>"


def main():
    out = ROOT / "fuzz/seeds/fuzz_tokenizer_json"
    out.mkdir(parents=True, exist_ok=True)
    for name, config in CONFIGS.items():
        spec = json.loads((GOLDEN / f"tokenizer-tiny-{name}.json").read_text())
        parts = [json.dumps(part, ensure_ascii=False, separators=(",", ":"))
                 for part in (spec, config)]
        (out / name).write_bytes("\0".join(parts + [TEXT]).encode())
    out = ROOT / "fuzz/seeds/fuzz_sentencepiece"
    out.mkdir(parents=True, exist_ok=True)
    (out / "unigram").write_bytes((GOLDEN / "sentencepiece-tiny-unigram.model").read_bytes())


main()
