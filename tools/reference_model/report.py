#!/usr/bin/env python3
"""Writes the measured part of docs/reference_model.md and the plot of the loss curves (needs matplotlib).

  report.py --models models/harrow-tiny models/harrow-tiny-relu --scores A.json B.json --compressed C.json D.json \\
    --doc docs/reference_model.md

Reads train.json and train.csv of each model folder and the JSON files that evaluate.py and scripts/demo.py wrote, and
replaces what stands between the two marker lines of the document. So no number there is typed by hand.
"""

import argparse
import csv
import hashlib
import json
import os

BEGIN, END = "<!-- measured: begin (written by tools/reference_model/report.py) -->", "<!-- measured: end -->"


def load(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join(" --- " if i == 0 else " ---: " for i in range(len(head))) + "|"]
    return lines + ["| " + " | ".join(str(c) for c in row) + " |" for row in rows]


def compressed_rows(result):
    """One line a recipe: what it costs, and which parts lost more than two standard errors of the difference."""
    dense = result["rows"][0]["tasks"]
    for row in result["rows"]:
        cells = [f"{row['method']} {row['pattern']}".strip(), f"{row['bytes']:,}", f"{row['ppl']:.2f}", f"{row['kl']:.3f}"]
        lost = {}
        for part in sorted(dense):
            accuracy, error, _ = row["tasks"][part]
            cells.append(f"{100 * accuracy:.1f}")
            lost[part] = (dense[part][0] - accuracy) / max((dense[part][1] ** 2 + error ** 2) ** 0.5, 1e-9)
        worst = sorted((p for p in lost if lost[p] > 2), key=lambda p: -lost[p])
        yield cells + [", ".join(f"{p} ({lost[p]:.0f})" for p in worst) or "-"]


def sections(folders, trained, scored, compressed):
    names = [os.path.basename(os.path.normpath(f)) for f in folders]
    out = ["### Training", ""]
    rows = [["parameters"] + [f"{t['parameters']:,}" for t in trained],
            ["activation of the gate"] + [t["arguments"]["act"] for t in trained],
            ["size preset"] + [t["arguments"]["size"] for t in trained],
            ["tokens seen"] + [f"{t['tokens']:,}" for t in trained],
            ["steps of rows"] + [f"{t['steps']:,} of {t['arguments']['rows']}" for t in trained],
            ["device, threads"] + [f"{t['hardware']}, {t['arguments']['threads']}" for t in trained],
            ["time"] + [f"{t['seconds'] / 60:.0f} min" for t in trained],
            ["tokens a second"] + [f"{t['tokens_per_second']:,}" for t in trained],
            ["seed, peak learning rate"] + [f"{t['arguments']['seed']}, {t['arguments']['lr']}" for t in trained],
            ["PyTorch"] + [t["torch"] for t in trained]]
    for kind in ("generated", "prose"):
        rows.append([f"loss, {kind}: train / valid (gap)"] + [
            f"{t['train_loss'][kind]:.3f} / {t['valid_loss'][kind]:.3f} ({t['valid_loss'][kind] - t['train_loss'][kind]:+.3f})"
            for t in trained])
    out += table([""] + names, rows)
    out += ["", "Losses are nats a token, of the weights as stored (BF16), over rows of one context. The two splits of the",
            "generated text differ a little in what can be known at all (held-out facts are never asked in training), so",
            "their gap is not overfitting alone; the gap on prose is.", "",
            "![loss curves](reference_model_loss.png)", "", "### Scores", "",
            "Test split, float32 arithmetic from the BF16 weights, PyTorch (`evaluate.py`). Accuracy in percent, ± one",
            "standard error; chance is 25 everywhere.", ""]
    groups = [g for g in scored[0]["tasks"] if " kind " not in g]
    groups.sort(key=lambda g: (g.split()[0], len(g.split()) > 1, int(g.split()[-1]) if g.split()[-1].isdigit() else 0, g))
    kinds = sorted(g for g in scored[0]["tasks"] if " kind " in g)

    def cell(scores, group):
        e = scores["tasks"][group]
        return f"{100 * e['accuracy']:.1f} ± {100 * e['standard_error']:.1f}"

    out += table(["part", "items"] + names, [
        [f"**{g}**" if " " not in g else g.replace(" ", ", ", 1), scored[0]["tasks"][g]["items"]] +
        [cell(s, g) for s in scored] for g in groups])
    out += ["", "By kind of question:", ""]
    out += table(["kind", "items"] + names, [
        [g.replace(" kind ", ": "), scored[0]["tasks"][g]["items"]] + [cell(s, g) for s in scored] for g in kinds])
    out += ["", "Perplexity (disjoint windows of the context, the first token of a window not scored):", ""]
    out += table(["text", "tokens"] + names, [
        [name, f"{scored[0]['texts'][name]['tokens_scored']:,}"] + [f"{s['texts'][name]['perplexity']:.3f}" for s in scored]
        for name in scored[0]["texts"]])
    out += ["", "Share of the FFN's hidden values (gate activation times up projection) that are not zero, by layer:", ""]
    for name in scored[0]["activation_density"]:
        layers = range(len(scored[0]["activation_density"][name]))
        out += table([name] + [f"layer {i}" for i in layers], [
            [n] + [f"{x:.3f}" for x in s["activation_density"][name]] for n, s in zip(names, scored)]) + [""]
    out += ["### What compression costs", "",
            "`scripts/demo.py` on each model: embedding and head left alone, calibrated on 800,000 characters of the generator's",
            "training split; perplexity and KL(dense || compressed) in nats a token on 120,000 characters of its test split;",
            "accuracies in percent of all task items. Last column: parts that lost more than two standard errors of the",
            "difference, with how many; the first of them degrades first.", ""]
    for name, result in zip(names, compressed):
        out += table([name, "bytes", "perplexity", "KL", *sorted(result["rows"][0]["tasks"]), "lost"],
                     list(compressed_rows(result))) + [""]
    out += ["### Hashes", ""]
    rows = [[f"`{n}/{f}`", f"`{sha256(os.path.join(folder, f))}`"]
            for n, folder in zip(names, folders) for f in ("model.safetensors", "tokenizer.json")]
    rows += [[f"generated test text ({scored[0]['texts']['generated test']['tokens']:,} tokens)",
              f"`{scored[0]['texts']['generated test']['sha256']}`"]]
    out += table(["file", "sha256"], rows)
    return out + ["", "The generator's own digests are in `tools/reference_model/hashes.json`."]


def plot(folders, path):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), dpi=90)
    for folder, style in zip(folders, ("-", "--")):
        name = os.path.basename(os.path.normpath(folder))
        with open(os.path.join(folder, "train.csv"), newline="") as f:
            rows = list(csv.DictReader(f))
        for column, label, colour in (("train_loss", "train (mix)", "#999999"), ("valid_generated", "valid, generated", "#1b6ca8"),
                                      ("valid_prose", "valid, prose", "#b8541a")):
            points = [(int(r["tokens"]) / 1e6, float(r[column])) for r in rows if r[column]]
            axes.plot(*zip(*points), style, color=colour, linewidth=1.2, label=f"{name}: {label}")
    axes.set(xlabel="million tokens seen", ylabel="loss (nats a token)", ylim=(0, 6))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--scores", nargs="+", required=True)
    parser.add_argument("--compressed", nargs="+", required=True)
    parser.add_argument("--doc", required=True)
    args = parser.parse_args()
    trained = [load(os.path.join(f, "train.json")) for f in args.models]
    body = "\n".join(sections(args.models, trained, [load(p) for p in args.scores],
                              [load(p) for p in args.compressed]))
    with open(args.doc, encoding="utf-8") as f:
        text = f.read()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    with open(args.doc, "w", encoding="utf-8") as f:
        f.write(f"{before}{BEGIN}\n\n{body}\n\n{END}{after}")
    plot(args.models, os.path.join(os.path.dirname(args.doc), "reference_model_loss.png"))


if __name__ == "__main__":
    main()
