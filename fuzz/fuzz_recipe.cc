// The recipe parser: any bytes give a recipe or an error, and a recipe's canonical text is a
// recipe.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "compress/recipe.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto recipe = harrow::ParseRecipe(text, "fuzz");
  if (!recipe.ok()) return 0;
  const auto again = harrow::ParseRecipe(recipe->canonical, "canonical");
  if (!again.ok() || again->canonical != recipe->canonical) std::abort();
  return 0;
}
