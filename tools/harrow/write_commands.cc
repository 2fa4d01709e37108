// prune, quantize, compress, export, convert: commands that write a model directory.
#include <memory>

#include "commands.h"
#include "flags.h"
#include "harrow/compress.h"
#include "harrow/convert.h"
#include "harrow/eval.h"
#include "harrow/machine.h"
#include "print.h"

namespace harrow::tools {
namespace {

// What all three forms of compression share.
struct CompressState {
  CompressOptions options;
  MachineOptions machine;
  bool no_measure = false;
  bool json = false;
};

// The JSON of prune, quantize and compress.
struct CompressOutput {
  CompressReport compression;
  std::optional<CompareReport> measured;

  template <class V>
  void Visit(V&& v) {
    v("compression", compression, "what was done; also saved as harrow_report.json");
    v("measured", measured,
      "source against result on this machine; null with --no-measure or if measuring failed");
  }
};

std::string Change(const char* what, uint64_t before, uint64_t after) {
  return fmt::format("{:<10} {} -> {} ({:.3f} x)\n", what, HumanBytes(before), HumanBytes(after),
                     static_cast<double>(after) / static_cast<double>(before));
}

std::string Summary(const CompressReport& report) {
  std::string text = fmt::format("wrote      {}\n", report.output);
  text += fmt::format("sparsity   {:.4f} of the linear weights ({} weights rewritten, {:.1f} s)\n",
                      report.sparsity, report.layers.size(), report.seconds);
  if (report.resumed_blocks > 0) {
    text += fmt::format("resumed    {} block{} that an earlier run had finished\n",
                        report.resumed_blocks, report.resumed_blocks == 1 ? "" : "s");
  }
  if (report.rounded_to_zero > 0) {
    text += fmt::format("           {:.4f} of it by rounding, which makes zeros of small weights\n",
                        report.rounded_to_zero);
  }
  text += fmt::format("outside    embedding {}, head {}\n", report.embedding,
                      report.head.empty() ? "tied to it" : report.head);
  text += Change("on disk", report.disk_bytes_before, report.disk_bytes);
  text += Change("resident", report.resident_bytes_before, report.resident_bytes);
  return text;
}

std::string DecodeLine(const CompareReport& measured) {
  return fmt::format(
      "decode     {:.1f} -> {:.1f} tok/s, {}. Medians of {} interleaved runs of {} tokens, {} "
      "threads\n",
      *measured.dense.decode_tps, *measured.sparse.decode_tps, measured.decode_verdict,
      measured.repetitions, measured.n_gen, measured.threads);
}

void AddCommon(CLI::App* app, CompressState* state) {
  Shell::AddModel(app, &state->options.model);
  state->options.Visit(FlagAdder(app, {"model", "recipe", "recipe_text", "threads"}));
  app->get_option("--output")->required()->type_name("DIR");
  state->machine.Visit(FlagAdder(app));
  app->add_flag("--no-measure", state->no_measure, "do not time source and result at the end");
  app->add_flag("--json", state->json, "print the report as JSON");
}

// Compress, with errors and warnings about a recipe made of flags in terms of those.
Result<CompressReport> CompressAsTyped(Shell* shell, const CompressOptions& options) {
  const auto typed = [&options](const std::string& message) {
    return options.recipe_text.empty() ? message : InFlags(message);
  };
  RunControl control = *shell->control();
  control.on_warning = [shell, typed](std::string_view message) {
    shell->control()->Warn(typed(std::string(message)));
  };
  Result<CompressReport> report = Compress(options, &control);
  if (report.ok()) return report;
  std::string message = typed(report.status().message());
  if (report.status().code() == StatusCode::kCancelled) {
    message +=
        fmt::format("; the same command{} continues", options.restart ? " without --restart" : "");
  }
  return Status(report.status().code(), message);
}

Status RunCompress(Shell* shell, CompressState* state) {
  HARROW_RETURN_IF_ERROR(ConfigureMachine(state->machine, shell->control()));
  state->options.threads = state->machine.threads;
  CompressOutput output;
  HARROW_ASSIGN_OR_RETURN(output.compression, CompressAsTyped(shell, state->options));
  // The model is in place from here on: whatever becomes of the measurement, this is a success.
  if (!state->json) shell->Print(Summary(output.compression));
  if (!state->no_measure) {
    CompareOptions compare;
    compare.n_prompt = 0;
    compare.n_gen = 16;
    compare.repetitions = 5;
    Result<CompareReport> measured = Compare(state->options.model, state->options.output, compare,
                                             state->machine, shell->control());
    if (measured.ok()) {
      output.measured = std::move(measured).value();
      if (!state->json) shell->Print(DecodeLine(*output.measured));
    } else {
      shell->Note(fmt::format("warning: speed was not measured: {}", measured.status().message()));
    }
  }
  if (state->json) shell->Print(DumpJson(ToJson(output)));
  return OkStatus();
}

std::string CompressDocs() {
  return FieldDocs<CompressOutput>() + FieldDocs<CompareReport>("measured.");
}

void AddPrune(Shell* shell) {
  struct State : CompressState {
    PruneOptions prune;
  };
  auto state = std::make_shared<State>();
  CLI::App* app = shell->Add("prune", "Zero weights and store the model in a sparse format",
                             "harrow prune models/harrow-tiny --method wanda --sparsity 0.5 "
                             "--calibration c4.jsonl -o out/wanda-50");
  AddCommon(app, state.get());
  state->prune.Visit(FlagAdder(app));
  shell->SetRun(app, CompressDocs(), [shell, state]() -> Status {
    HARROW_ASSIGN_OR_RETURN(state->options.recipe_text, PruneRecipe(state->prune));
    return RunCompress(shell, state.get());
  });
}

void AddQuantize(Shell* shell) {
  struct State : CompressState {
    QuantizeOptions quantize;
  };
  auto state = std::make_shared<State>();
  CLI::App* app =
      shell->Add("quantize", "Round weights to fewer bits",
                 "harrow quantize models/harrow-tiny --weights int8 --group 128 -o out/int8");
  AddCommon(app, state.get());
  state->quantize.Visit(FlagAdder(app));
  shell->SetRun(app, CompressDocs(), [shell, state]() -> Status {
    HARROW_ASSIGN_OR_RETURN(state->options.recipe_text, QuantizeRecipe(state->quantize));
    return RunCompress(shell, state.get());
  });
}

void AddRecipe(Shell* shell) {
  auto state = std::make_shared<CompressState>();
  CLI::App* app = shell->Add("compress", "Run a compression recipe (docs/recipes.md)",
                             "harrow compress models/harrow-tiny -r recipe.yaml -o out/sparse");
  AddCommon(app, state.get());
  app->add_option("-r,--recipe", state->options.recipe_path, "YAML file")
      ->required()
      ->type_name("PATH");
  shell->SetRun(app, CompressDocs(), [shell, state] { return RunCompress(shell, state.get()); });
}

}  // namespace

void AddCompress(Shell* shell) {
  AddPrune(shell);
  AddQuantize(shell);
  AddRecipe(shell);
}

void AddExport(Shell* shell) {
  struct State {
    ExportOptions options;
    std::string to = "hf";
    bool json = false;
  };
  auto state = std::make_shared<State>();
  CLI::App* app = shell->Add("export", "Write a compressed model for other programs",
                             "harrow export out/wanda-50 --to hf -o out/wanda-50-dense");
  Shell::AddModel(app, &state->options.model);
  app->add_option("--to", state->to,
                  "hf: a dense Hugging Face directory; gguf: a file for llama.cpp")
      ->type_name("FORMAT")
      ->default_str("hf")
      ->check(CLI::IsMember({"hf", "gguf"}));
  state->options.Visit(FlagAdder(app, {"model"}));
  app->get_option("--output")->required()->type_name("PATH");
  app->add_flag("--json", state->json, "print the report as JSON");
  shell->SetRun(app, FieldDocs<ExportReport>(), [shell, state]() -> Status {
    const auto write = state->to == "gguf" ? ExportGguf : ExportDense;
    HARROW_ASSIGN_OR_RETURN(ExportReport report, write(state->options, shell->control()));
    shell->PrintReport(report, state->json ? "json" : "text");
    return OkStatus();
  });
}

void AddConvert(Shell* shell) {
  auto state = std::make_shared<ConvertOptions>();
  CLI::App* app =
      shell->Add("convert", "Turn a llama2.c checkpoint into a Hugging Face directory",
                 "harrow convert stories260K.bin --tokenizer tok512.model -o out/stories260K");
  app->add_option("-m,--model,FILE", state->model, "llama2.c .bin, version 0 or 1, float32")
      ->required()
      ->type_name("PATH");
  state->Visit(FlagAdder(app));
  app->get_option("--output")->required()->type_name("DIR");
  shell->SetRun(app, "", [shell, state]() -> Status {
    HARROW_RETURN_IF_ERROR(ConvertLlama2c(*state));
    shell->Note(fmt::format("wrote {}", state->output));
    return OkStatus();
  });
}

}  // namespace harrow::tools
