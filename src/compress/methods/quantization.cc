#include "compress/methods/quantization.h"

#include "formats/panel.h"

namespace harrow {

Quantization ReadQuantization(OptionReader* options) {
  const bool int4 = options->Choice("format", "int8", {"int8", "int4"}) == "int4";
  const int64_t group = options->Integer("group", 128, kBlockCols, 1 << 16);
  const bool symmetric = options->Boolean("symmetric", true);
  Quantization quantization;
  quantization.group = static_cast<int32_t>(group);
  if (int4) quantization.values = symmetric ? ValueType::kI4 : ValueType::kU4;
  if (!int4 && !symmetric) options->Fail("symmetric", "expected true with `format: int8`");
  const WeightSpec spec = {FormatId::kDensePanel, quantization.values, quantization.group};
  if (Status status = ValidateSpec(spec); !status.ok()) options->Fail("group", status.message());
  return quantization;
}

}  // namespace harrow
