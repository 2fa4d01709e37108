// The parser of machine profiles: any bytes give a profile or an error; a profile that parses is
// written and read back unchanged, and can be chosen from, explained and printed.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "advise/explain.h"
#include "advise/profile.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto profile = harrow::ParseProfile(text, "fuzz");
  if (!profile.ok()) return 0;
  const auto written = harrow::FormatProfile(*profile);
  if (!written.ok()) std::abort();
  const auto again = harrow::ParseProfile(*written, "fuzz");
  if (!again.ok() || harrow::FormatProfile(*again).value() != *written) std::abort();
  for (const harrow::KernelChoice& choice : harrow::ChoicesOf(*profile)) {
    if (!(choice.min_density <= choice.max_density) || choice.min_m > choice.max_m) std::abort();
  }
  // May be refused: kernels of other builds.
  (void)harrow::SetKernelChoices(harrow::ChoicesOf(*profile));
  harrow::ExplainOptions options;
  options.explain = "64x128";
  if (!harrow::ExplainLayer(options, *profile, "").ok()) std::abort();
  (void)harrow::BreakEvenMarkdown(*profile);
  return 0;
}
