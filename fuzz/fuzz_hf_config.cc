// ParseHfConfig on arbitrary text: an error, or a config whose sizes hold what the header promises
// and that survives being written back.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "checkpoint/hf_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = harrow::ParseHfConfig(text, "fuzz");
  if (!config.ok()) return 0;
  HARROW_CHECK(config->hidden_size > 0 && config->head_dim > 0 && config->vocab_size > 0);
  HARROW_CHECK(config->num_attention_heads % config->num_key_value_heads == 0);
  const auto written = harrow::WithHarrowSection(*config, config->packed, "", "bfloat16");
  HARROW_CHECK(written.ok());
  const auto again = harrow::ParseHfConfig(*written, "written");
  HARROW_CHECK(again.ok());
  HARROW_CHECK(again->packed.size() == config->packed.size());
  HARROW_CHECK(again->rope_theta == config->rope_theta);
  return 0;
}
