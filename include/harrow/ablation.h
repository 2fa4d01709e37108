// What each part of a recipe contributes.
#ifndef HARROW_ABLATION_H_
#define HARROW_ABLATION_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "harrow/fields.h"
#include "harrow/machine.h"
#include "harrow/run_control.h"
#include "harrow/status.h"

namespace harrow {

struct AblationOptions {
  std::string model;
  std::string recipe;
  std::string text;
  int64_t seqlen = 0;
  int64_t limit = 0;
  bool steps = true;
  bool blocks = true;
  std::string work;
  std::string html;

  template <class V>
  void Visit(V&& v) {
    v("recipe", recipe, "YAML file (docs/recipes.md)");
    v("text", text, "text to measure the loss on");
    v("seqlen", seqlen, "tokens a window; 0: the model's context but at most 2048",
      Limits{0, 1 << 24});
    v("limit", limit, "windows at most; 0: all", Limits{0, 1e9});
    v("steps", steps, "leave out each step of the recipe in turn");
    v("blocks", blocks, "leave out each block of the model in turn");
    v("work", work, "folder for the compressed models, one at a time; empty: a temporary one");
    v("html", html, "file to write: the heat-map as a page");
  }
};

struct AblationRow {
  std::string variant;
  std::string kind;
  std::string methods;
  double sparsity = 0;
  double bits_per_weight = 0;
  uint64_t disk_bytes = 0;
  double loss_increase = 0;
  std::optional<double> loss_increase_stderr;
  double saved = 0;
  std::optional<double> saved_stderr;
  double kl = 0;
  std::optional<double> kl_stderr;
  double top1_agreement = 0;

  template <class V>
  void Visit(V&& v) {
    v("variant", variant, "what was run");
    v("kind", kind, "whole | without step | without block | sparsity alone | quantization alone");
    v("methods", methods, "methods of the steps that were run, joined by '+'");
    v("sparsity", sparsity, "fraction of zeros in the linear weights of the blocks");
    v("bits_per_weight", bits_per_weight,
      "bits stored for each linear weight of the blocks of the dense model");
    v("disk_bytes", disk_bytes, "weight files");
    v("loss_increase", loss_increase, "mean NLL minus the dense model's, nats a token");
    v("loss_increase_stderr", loss_increase_stderr, "its standard error, paired by window");
    v("saved", saved, "loss increase of the whole recipe minus this one's");
    v("saved_stderr", saved_stderr, "its standard error, paired by window");
    v("kl", kl, "mean KL(dense || variant), nats");
    v("kl_stderr", kl_stderr, "its standard error over windows");
    v("top1_agreement", top1_agreement, "fraction of positions with the same most likely token");
  }
};

struct Additivity {
  double sparsity_loss = 0;
  double quantization_loss = 0;
  double both_loss = 0;
  double excess = 0;
  std::optional<double> excess_stderr;
  double sparsity_kl = 0;
  double quantization_kl = 0;
  double both_kl = 0;
  std::string verdict;

  template <class V>
  void Visit(V&& v) {
    v("sparsity_loss", sparsity_loss, "loss increase of the steps that do not quantize");
    v("quantization_loss", quantization_loss, "loss increase of those that do");
    v("both_loss", both_loss, "loss increase of the whole recipe");
    v("excess", excess, "both minus the sum of the two");
    v("excess_stderr", excess_stderr, "its standard error, paired by window");
    v("sparsity_kl", sparsity_kl, "KL of the steps that do not quantize");
    v("quantization_kl", quantization_kl, "KL of those that do");
    v("both_kl", both_kl, "KL of the whole recipe");
    v("verdict", verdict, "do errors add? in words");
  }
};

struct AblationReport {
  std::string model;
  std::string recipe;
  std::vector<AblationRow> rows;
  std::optional<Additivity> additivity;
  std::vector<std::string> notes;
  double dense_ppl = 0;
  int64_t seqlen = 0;
  int64_t windows = 0;
  std::string text_hash;
  int32_t threads = 0;
  double seconds = 0;

  template <class V>
  void Visit(V&& v) {
    v("model", model, "model directory");
    v("recipe", recipe, "recipe file");
    v("rows", rows, "the whole recipe first");
    v("additivity", additivity, "null unless some steps quantize and the others prune");
    v("notes", notes, "variants that could not be run, and why");
    v("dense_ppl", dense_ppl, "perplexity of the dense model");
    v("seqlen", seqlen, "tokens a window");
    v("windows", windows, "windows scored");
    v("text_hash", text_hash, "XXH3-64 of the text");
    v("threads", threads, "threads used");
    v("seconds", seconds, "wall clock");
  }
};

// Each variant is a whole run of a recipe, with what follows seeing the changed inputs.
Result<AblationReport> Ablate(const AblationOptions& options, const MachineOptions& machine,
                              const RunControl* control);

}  // namespace harrow

#endif  // HARROW_ABLATION_H_
