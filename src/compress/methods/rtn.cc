// Round to nearest: INT8, symmetric, one scale per group of inputs. The rounding itself belongs to
// the weight formats (src/formats: scale = max|w| / 127 rounded up to BF16); the method asks for
// it.
#include "compress/methods/method.h"
#include "formats/linear_weight.h"

namespace harrow {
namespace {

class Rtn final : public Method {
 public:
  explicit Rtn(OptionReader* options)
      : bits_(options->Integer("bits", 8, 1, 16)),
        group_(options->Integer("group", 128, 32, 1 << 16)),
        embed_(options->Boolean("embed", !options->Has("targets"))) {
    if (bits_ != 8) options->Fail("bits", fmt::format("expected 8, found {}", bits_));
    if (group_ % 32 != 0) {
      options->Fail("group", fmt::format("expected a multiple of 32, found {}", group_));
    }
    const WeightSpec spec = {FormatId::kDensePanel, ValueType::kI8, static_cast<int32_t>(group_)};
    if (Status status = ValidateSpec(spec); !status.ok()) options->Fail("group", status.message());
  }
  StatisticsNeed needs() const override { return StatisticsNeed::kNone; }
  bool quantizes() const override { return true; }
  bool rewrites() const override { return false; }
  bool includes_embedding() const override { return embed_; }
  Status Check(int64_t, int64_t) const override { return OkStatus(); }
  Status Apply(LayerWork* layer) const override {
    layer->quant_group = static_cast<int32_t>(group_);
    return OkStatus();
  }

 private:
  int64_t bits_;
  int64_t group_;
  bool embed_;
};

}  // namespace

std::unique_ptr<Method> MakeRtn(OptionReader* options) {
  return std::make_unique<Rtn>(options);
}

}  // namespace harrow
