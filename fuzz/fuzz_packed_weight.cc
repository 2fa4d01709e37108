// RestorePackedWeight on arbitrary bytes under an arbitrary description: an error, or a weight that
// unpacks without reading outside its bytes.
//
// Input: format, value type, group, N, M or block rows and cols, rows, cols (a byte each),
// non-zeros (2 bytes), then the packed bytes. The checksum is always made to match, since it would
// keep everything else out.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "base/check.h"
#include "checkpoint/checkpoint.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace harrow;
  constexpr size_t kHeader = 9;
  if (size < kHeader) return 0;
  PackedWeightInfo info;
  const std::span<const FormatId> formats = AllFormats();
  info.spec.format = formats[data[0] % formats.size()];
  info.spec.values = static_cast<ValueType>(data[1] % 6);
  info.spec.group = IsQuantized(info.spec.values) ? 32 * (1 + data[2] % 8) : data[2] % 2;
  const bool is_block = info.spec.format != FormatId::kNm;
  (is_block ? info.spec.block_rows : info.spec.keep_n) = data[3] % 33;
  (is_block ? info.spec.block_cols : info.spec.of_m) = data[4] % 33;
  info.rows = data[5];
  info.cols = data[6];
  info.nonzeros = data[7] + 256 * data[8];
  // A heap block of exactly these bytes, so that ASan sees a read beyond them; aligned, so that
  // RestorePackedWeight uses it rather than a copy.
  const size_t bytes = size - kHeader;
  void* block = nullptr;
  if (posix_memalign(&block, 64, std::max<size_t>(bytes, 1)) != 0) return 0;
  const std::shared_ptr<void> owner(block, std::free);
  std::memcpy(block, data + kHeader, bytes);
  const TensorView view{
      DType::kU8, {static_cast<int64_t>(bytes)}, static_cast<const std::byte*>(block), owner};
  info.checksum = WeightChecksum({info.spec, info.rows, info.cols, view.span(), nullptr});
  auto weight = RestorePackedWeight("fuzz", info, view);
  if (!weight.ok()) {
    // Most inputs guess the count wrong; take the true one and go on.
    if (!ValidateSpec(info.spec).ok() || info.rows == 0 || info.cols == 0) return 0;
    const auto nonzeros = ValidateWeight({info.spec, info.rows, info.cols, view.span(), nullptr});
    if (!nonzeros.ok()) return 0;
    HARROW_CHECK(*nonzeros >= 0 && *nonzeros <= info.rows * info.cols);
    info.nonzeros = *nonzeros;
    weight = RestorePackedWeight("fuzz", info, view);
    HARROW_CHECK(weight.ok());
  }
  std::vector<float> values(static_cast<size_t>(info.rows * info.cols));
  UnpackRows(*weight, 0, info.rows, values.data());
  return 0;
}
