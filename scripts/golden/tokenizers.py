"""Writes tests/golden/tokenizers.json and the tiny tokenizers beside it.

Reference: the Hugging Face `tokenizers` library (made with 0.23.3), for files of ../shared/data and for
small tokenizers that are trained here on the texts below; `sentencepiece` for .model files.

    python3 -m venv /tmp/v && /tmp/v/bin/pip install tokenizers sentencepiece
    /tmp/v/bin/python scripts/golden/tokenizers.py ../shared/data
"""

import copy
import json
import pathlib
import sys
import unicodedata

sys.path.pop(0)  # this folder: it would find this file as the module `tokenizers`

import sentencepiece
from tokenizers import (Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
                        trainers, AddedToken, Regex)

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "../shared/data")
OUT = ROOT / "tests/golden"

TEXTS = [
    "",
    " ",
    "  ",
    "\n",
    "\t\t x \t",
    "a",
    "Hello world",
    " Hello, world!  How are   you?\n\n\nFine.   ",
    "I'll say it's theirs, they've gone; I'd've. HE'LL, IT'S, WE'RE 'sup 'tis",
    "0 12 345 6789 12345678901 3.14159 1,000,000 2⁵ ½ Ⅷ ٣٤٥ ๔๕",
    "def f(x):\n\tif x > 0:\n\t\treturn x ** 2  # square\n    else:\n        return -x\n\n\n\n",
    "#include <cstdio>\r\nint main() { printf(\"%d\\n\", 1<<3); }\r\n",
    "Größe, naïve café, œuvre, Łódź, İstanbul, ǅungla, ﬁn",
    "e\u0301 a\u0308\u0323 A\u030a n\u0303 q\u0307\u0323 \u1100\u1161\u11a8 각 \u212b \u2126",
    "日本語の文章です。漢字、カタカナ、ひらがな! 中文没有空格，한국어도 있어요.",
    "Привет, мир! Γειά σου Κόσμε. שלום עולם مرحبا بالعالم नमस्ते दुनिया สวัสดีชาวโลก",
    "🙂 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 👍🏽 a🙂b 🦙",
    "zero\u200bwidth\u200djoin\u00a0nbsp\u2003em\u3000ideographic\u180emongolian\u0085nel\u2028ls",
    "'ſ 'K 'LL ſtraße ß SS K (Kelvin)",
    "Ⓐⓑ 🅰 ª º _under_score__ --- ... «quotes» “curly” ‘single’ — – ‐",
    "<|endoftext|>",
    "one<|endoftext|>two <|endoftext|> three",
    "<s>x</s> <unk> <s> <|start_story|>Once<|end_story|> <pad>",
    " " * 30 + "x" + " " * 7 + "y",
    "\n" * 5 + " \n \n" + "\r\r\n",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "▁already ▁▁ marked▁",
    "\u0000 \u0001\u007f\ufffd\ufeffbom \U0010fffd \ue000 \ud7ff",
    "https://example.org/a?b=c&d=%20#e user@example.org C:\\dir\\file 50% $9.99 @x #y",
    "MiXeD CaSe WoRdS tHAT lowercase ΑΣ ὈΔΥΣΣΕΎΣ",
    "The harrow follows the plough. It breaks the clods, levels the furrows and covers the seed; "
    "what the plough turned over, the harrow makes into soil. In 1850 a harrow had 30 teeth.",
]

TRAINING = TEXTS + [
    "A model has many weights and most of them are small. Take the small ones away, and what is left "
    "still speaks. Take too many, and it stammers. The art is to know which, and to say what it cost.",
    "for i in range(10):\n    print(i, i * i)\n",
] * 3

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
         r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
         r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def fnv1a(ids):
    h = 0xcbf29ce484222325
    for i in ids:
        for byte in int(i).to_bytes(4, "little"):
            h = (h ^ byte) * 0x100000001b3 & 0xffffffffffffffff
    return f"{h:016x}"


def record(encode, decode):
    ids = [encode(t) for t in TEXTS]
    # Texts that decoding does not give back: index -> what it gives.
    changed = {str(k): decode(i) for k, i in enumerate(ids) if decode(i) != TEXTS[k]}
    return {"ids": ids, "decoded": changed}


def hf(tokenizer):
    # The library (0.23) forgets that a special token is special when its normalized form
    # differs: it decodes Llama-2's "</s>" as text then. Special is special here.
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return record(lambda t: tokenizer.encode(t).ids,
                  lambda ids: tokenizer.decode([i for i in ids if i not in special]))


def char_class(pattern, text):
    """Which characters a regular expression takes: Oniguruma's classes are not PCRE2's."""
    splitter = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    found = [ord(part) for part, _ in splitter.pre_tokenize_str(text)]
    return {"pattern": pattern, "count": len(found), "fnv1a": fnv1a(found)}


def corpus(encode, name, size):
    text = (SHARED / name).read_bytes()[:size].decode("utf-8", errors="ignore")
    ids = encode(text)
    return {"file": name, "bytes": len(text.encode()), "count": len(ids), "fnv1a": fnv1a(ids)}


def tiny_gpt2():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(TRAINING, trainers.BpeTrainer(
        vocab_size=420, show_progress=False, special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return t


def tiny_llama3():
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
         pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(TRAINING, trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    t.add_special_tokens(["<|begin|>", "<|endoftext|>"])
    t.add_tokens([AddedToken("     ", normalized=False), AddedToken("return", single_word=True),
                  AddedToken("<mask>", lstrip=True, rstrip=True)])
    t.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin|> $A", pair="<|begin|> $A $B",
                                      special_tokens=[("<|begin|>", t.token_to_id("<|begin|>"))])])
    return t


def tiny_spaces():
    """Characters with a space mark, bytes to fall back to, as Llama-2."""
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                   decoders.Strip(" ", 1, 0)])
    t.train_from_iterator(TRAINING[-6:], trainers.BpeTrainer(
        vocab_size=400, show_progress=False,
        special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]))
    spec = json.loads(t.to_str())
    spec["added_tokens"] = spec["added_tokens"][:3]
    for token in spec["added_tokens"]:
        token["normalized"] = token["content"] == "</s>"
    spec["post_processor"] = json.loads(processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]).__getstate__())
    return Tokenizer.from_str(json.dumps(spec))


def split(pattern, behavior, invert=False):
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def metaspace(scheme, split):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}


# name -> (tiny tokenizer, members of its file to replace; "model" is merged)
VARIANTS = {
    "prefix space": ("gpt2", {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True,
                                                "trim_offsets": True}}),
    "contiguous digits": ("gpt2", {"pre_tokenizer": sequence(
        {"type": "Digits", "individual_digits": False}, BYTES)}),
    "whitespace": ("gpt2", {"pre_tokenizer": sequence({"type": "Whitespace"}, BYTES)}),
    "whitespace split": ("gpt2", {"pre_tokenizer": sequence({"type": "WhitespaceSplit"}, BYTES)}),
    "o200k": ("gpt2", {"pre_tokenizer": sequence(split({"Regex": O200K}, "Isolated"), BYTES)}),
    "o200k removed inverted": ("gpt2", {"pre_tokenizer": sequence(
        split({"Regex": O200K}, "Removed", True), BYTES)}),
    "deepseek": ("gpt2", {"pre_tokenizer": sequence(
        split({"Regex": r"\p{N}{1,3}"}, "Isolated"), split({"Regex": "[一-龥぀-ゟ゠-ヿ]+"}, "Isolated"),
        split({"Regex": "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?"
                        "[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"}, "Isolated"),
        BYTES)}),
    "lines and words": ("gpt2", {"pre_tokenizer": sequence(
        split({"Regex": r"\s?[A-Za-zµÀ-ÖØ-öø-ƺ]+"}, "Isolated"), split({"Regex": r"\s+$"}, "Isolated"),
        split({"Regex": r"^\w+\b|\W\B"}, "Isolated"), BYTES)}),
    "empty matches": ("gpt2", {"pre_tokenizer": sequence(split({"Regex": "x*"}, "Isolated"), BYTES)}),
    "scripts": ("gpt2", {"pre_tokenizer": sequence(
        split({"Regex": r"\p{Han}+|\p{Katakana}|\p{^Latin}{,2}"}, "Isolated"), BYTES)}),
    "metaspace first": ("spaces", {"normalizer": None, "pre_tokenizer": metaspace("first", True),
                                   "decoder": metaspace("first", True)}),
    "metaspace always": ("spaces", {"normalizer": None, "pre_tokenizer": metaspace("always", False),
                                    "decoder": metaspace("always", False)}),
    "metaspace never": ("spaces", {"normalizer": None, "pre_tokenizer": metaspace("never", True),
                                   "decoder": metaspace("never", True)}),
    "no bytes": ("spaces", {"model": {"byte_fallback": False}}),
    "no bytes, unknown not fused": ("spaces", {"model": {"byte_fallback": False, "fuse_unk": False}}),
    "lowercase nfd": ("spaces", {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "NFD"}, {"type": "Lowercase"},
        {"type": "Replace", "pattern": {"Regex": r"[\s\p{P}]+"}, "content": "▁"}]}}),
    "nfkc": ("spaces", {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "NFKC"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}}),
    "nfkd": ("gpt2", {"normalizer": {"type": "NFKD"}}),
}
for behavior in ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]:
    for invert in [False, True]:
        VARIANTS[f"split {behavior}{' inverted' if invert else ''}"] = (
            "gpt2", {"pre_tokenizer": sequence(split({"Regex": r"[aeiou ]"}, behavior, invert), BYTES)})
        VARIANTS[f"string {behavior}{' inverted' if invert else ''}"] = (
            "gpt2", {"pre_tokenizer": sequence(split({"String": "  "}, behavior, invert), BYTES)})
    VARIANTS[f"punctuation {behavior}"] = ("gpt2", {"pre_tokenizer": sequence(
        {"type": "Punctuation", "behavior": behavior}, BYTES)})


def patched(spec, patch):
    spec = copy.deepcopy(spec)
    for key, value in patch.items():
        if key == "model":
            spec["model"].update(value)
        else:
            spec[key] = value
    return spec


def word_parts():
    """A prefix inside of words and a mark at their end, by hand."""
    vocab = ["<unk>", "a", "b", "##a", "##b", "a</w>", "b</w>", "##a</w>", "##b</w>", "ab", "ab</w>", "##ab</w>"]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
            "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None,
            "decoder": {"type": "Fuse"},
            "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": "##",
                      "end_of_word_suffix": "</w>", "fuse_unk": False, "byte_fallback": False,
                      "ignore_merges": False, "vocab": {t: i for i, t in enumerate(vocab)},
                      "merges": [["a", "##b"], "a ##b</w>", ["##a", "##b</w>"]]}}


def main():
    assert unicodedata.unidata_version == "14.0.0", "PCRE2 10.42 knows Unicode 14"
    every = "".join(c for c in map(chr, range(0x110000)) if unicodedata.category(c) not in ("Cn", "Co", "Cs"))
    classes = [r"\w", r"\W", r"\s", r"\S", r"\d", r"\v", r"[^\s\d]", r"[\w\u2013]", r"\p{^L}", r"(?i:k)",
               r"(?i:[st])", r"\x41", "."] + [
        f"\\p{{{c}}}" for c in "L Lu Ll Lt Lm Lo M N Nd Nl No P Pc Pd Ps S Sm Sc Sk So Z Zs Cc Cf Han Hiragana Katakana "
        "Hangul Latin Greek Cyrillic Arabic Hebrew Thai Devanagari".split()]
    golden = {"classes": [char_class(c, every) for c in classes], "texts": TEXTS, "shared": {}, "tiny": {}, "variants": [], "sentencepiece": {}}
    tiny = {"gpt2": tiny_gpt2(), "llama3": tiny_llama3(), "spaces": tiny_spaces()}
    specs = {}
    for name, tokenizer in tiny.items():
        specs[name] = json.loads(tokenizer.to_str())
        specs[name]["model"]["merges"] = [" ".join(m) if i % 2 else m for i, m in
                                          enumerate(specs[name]["model"]["merges"])] if name != "spaces" \
            else specs[name]["model"]["merges"]
        path = OUT / f"tokenizer-tiny-{name}.json"
        path.write_text(json.dumps(specs[name], ensure_ascii=False, separators=(",", ":")) + "\n")
        # The library reads merges of one form only.
        golden["tiny"][name] = dict(file=f"tests/golden/{path.name}", **hf(tokenizer))
    for name, (base, patch) in VARIANTS.items():
        spec = patched(json.loads(tiny[base].to_str()), patch)
        golden["variants"].append({"name": name, "base": base, "patch": patch,
                                   **hf(Tokenizer.from_str(json.dumps(spec)))})
    parts = word_parts()
    one_form = copy.deepcopy(parts)
    one_form["model"]["merges"] = [m.split(" ") if isinstance(m, str) else m for m in parts["model"]["merges"]]
    t = Tokenizer.from_str(json.dumps(one_form))
    words = ["ab", "a b", "aab abb", "ba", "bab", "abx xab", "aaabbb"]
    golden["word_parts"] = {"spec": parts, "texts": words, "ids": [t.encode(w).ids for w in words]}

    wiki = "corpora/wikitext2_raw_train_excerpt.txt"
    for name, file, size in [("gpt2", "golden/gpt2-tokenizer/tokenizer.json", 10**9),
                             ("gptneox", "golden/gptneox-tokenizer/20B_tokenizer.json", 10**9),
                             ("llama2", "golden/llama2-tokenizer/tokenizer.json", 10**6),
                             ("TinyStories-656K", "models/TinyStories-656K/tokenizer.json", 10**6)]:
        t = Tokenizer.from_file(str(SHARED / file))
        golden["shared"][name] = dict(file=file, **hf(t),
                                      corpus=corpus(lambda x: t.encode(x).ids, wiki, size))
    for name, file in [("stories260K", "models/stories260K/tok512.model"),
                       ("babyllama", "models/babyllama-105/tok105.model"),
                       ("llama2", "golden/llama2-tokenizer/tokenizer.model")]:
        sp = sentencepiece.SentencePieceProcessor(model_file=str(SHARED / file))
        # Without texts that hold a special token: the library takes it as plain characters.
        ids = [None if "<" in x and ("<s>" in x or "</s>" in x or "<unk>" in x) else
               [sp.bos_id()] + sp.encode(x) for x in TEXTS]
        golden["sentencepiece"][name] = {
            "file": file, "ids": ids,
            "decoded": {str(k): sp.decode(i) for k, i in enumerate(ids) if i is not None and
                        sp.unk_id() not in i and sp.decode(i) != TEXTS[k]},
            "corpus": corpus(lambda x: [sp.bos_id()] + sp.encode(x), wiki, 3 * 10**5)}

    # Rules that share beginnings and replacements, so that the model has a small table of them.
    rules = {"\u00a0": " ", "\u3000": " ", "\ufb01": "fi", "\u2460": "1", "\u2461": "2", "\u212b": "\u00c5",
             "e\u0301": "\u00e9", "e\u0300": "\u00e8", "A\u030a": "\u00c5", "\t": " ", "\n": " ", "\u200b": ""}
    pathlib.Path("/tmp/tiny-unigram.tsv").write_text("".join(
        " ".join(f"{ord(c):X}" for c in a) + "\t" + " ".join(f"{ord(c):X}" for c in b) + "\n"
        for a, b in rules.items()))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([t for t in TRAINING if t.strip() and "\0" not in t]),
        model_prefix="/tmp/tiny-unigram", vocab_size=560, model_type="unigram", byte_fallback=True,
        character_coverage=0.98, user_defined_symbols=["<user>", "<user2>"], minloglevel=2,
        hard_vocab_limit=False, normalization_rule_tsv="/tmp/tiny-unigram.tsv")
    model = pathlib.Path("/tmp/tiny-unigram.model").read_bytes()
    (OUT / "sentencepiece-tiny-unigram.model").write_bytes(model)
    sp = sentencepiece.SentencePieceProcessor(model_proto=model)
    keep = [x for x in TEXTS if "<s>" not in x]
    golden["unigram"] = {"texts": keep, "ids": [[sp.bos_id()] + sp.encode(x) for x in keep],
                         "decoded": [sp.decode(sp.encode(x)) for x in keep]}

    with open(OUT / "tokenizers.json", "w") as f:
        json.dump(golden, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")


main()
