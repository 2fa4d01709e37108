// Round to nearest: INT8 or INT4, one scale (and zero point) per group of inputs. The rounding
// itself belongs to the weight formats (formats/quant_grid.h); the method asks for it.
#include "compress/methods/quantization.h"

namespace harrow {
namespace {

class Rtn final : public Method {
 public:
  explicit Rtn(OptionReader* options)
      : quantization_(ReadQuantization(options)),
        embed_(options->Boolean("embed", !options->Has("targets"))) {}
  StatisticsNeed needs() const override { return StatisticsNeed::kNone; }
  bool quantizes() const override { return true; }
  bool rewrites() const override { return false; }
  bool includes_embedding() const override { return embed_; }
  Status Check(int64_t, int64_t) const override { return OkStatus(); }
  Status Apply(LayerWork* layer) const override {
    layer->quantization = quantization_;
    return OkStatus();
  }

 private:
  Quantization quantization_;
  bool embed_;
};

}  // namespace

std::unique_ptr<Method> MakeRtn(OptionReader* options) {
  return std::make_unique<Rtn>(options);
}

}  // namespace harrow
