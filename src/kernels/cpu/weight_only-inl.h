// Products of quantized weights with activations that stay BF16 (weight-only quantization). Part of
// linear-inl.h.
//
// Weights become float32 with their scale, an integer of 8 bits times a bf16: exact. So nothing is
// left to do by group, and every format runs on the loop and micro-kernel of dense float32
// (Expanded), for any number of tokens.

// Adds a group's scale to what decoders yield: weight = value * scale + shift, exactly.
template <class Decoder>
struct GroupScale {
  F scale;
  F shift;

  // `panel` holds the scales of `group`, and its zero points at `zeros_at`.
  HARROW_INLINE void Begin(const std::byte* panel, int64_t group, int64_t zeros_at) {
    const float inverse = 1 / Decoder::kFactor;
    scale = Mul(LoadBf16(panel + group * (2 * kPanelRows)), BroadcastF(&inverse));
    const float offset = kOffsetWeights ? -128.0f : 0.0f;
    shift = Mul(scale, BroadcastF(&offset));
    if constexpr (Decoder::kZeros) {
      const float minus_factor = -Decoder::kFactor;
      const I zeros = LoadBytes(panel + zeros_at + group * kPanelRows);
      const F shifted = Mul(ToF(kOffsetWeights ? zeros : ZeroShift(zeros)), scale);
      shift = Mul(shifted, BroadcastF(&minus_factor));
    }
  }
  HARROW_INLINE F Of(UnitI8 unit, int input) const {
    return Fma(LaneByte(unit, input), scale, shift);
  }
};

template <class Decoder>
struct ScaledExpander {
  PanelGeometry geometry;
  int64_t distance;
  Decoder decoders[kMicroPanels];
  const std::byte* panels[kMicroPanels];
  int64_t blocks[kMicroPanels];  // expanded so far

  void Begin(const LinearTask& task, int64_t row, int count) {
    const LinearWeight& weight = *task.weight;
    geometry = GeometryOf(weight.spec, weight.rows, weight.cols);
    distance = task.fetch_distance;
    for (int p = 0; p < count; ++p) {
      panels[p] = weight.data.data() + PanelOffset(weight, row / kPanelRows + p);
      decoders[p].Begin(panels[p] + geometry.scale_bytes, BlockStride(weight.spec));
      blocks[p] = 0;
    }
  }
  // `units` is a multiple of kBlockCols.
  void Expand(int panel, int64_t units, std::byte* out) {
    Decoder decoder = decoders[panel];
    for (int64_t end = blocks[panel] + units / kBlockCols; blocks[panel] < end; ++blocks[panel]) {
      const int64_t group = blocks[panel] / geometry.group_blocks;
      if constexpr (Decoder::kZeros) {
        decoder.BeginGroup(LoadBytes(panels[panel] + geometry.zeros_at() + group * kPanelRows));
      }
      GroupScale<Decoder> scale;
      scale.Begin(panels[panel], group, geometry.zeros_at());
      decoder.BeginBlock();
      for (int u = 0; u < Decoder::kUnits; ++u) {
        decoder.Fetch(u, distance);
        const UnitI8 unit = decoder.Next(u);
        for (int i = 0; i < 4; ++i, out += 64)
          StoreF(reinterpret_cast<float*>(out), scale.Of(unit, i));
      }
    }
    decoders[panel] = decoder;
  }
  Ahead Next(const LinearTask& task, int64_t row, int count, bool last_slice) const {
    return PanelsAhead(*task.weight, row, count, last_slice, decoders);
  }
};

// Blocks: stored inputs ("slots") to their places among zeros.
struct BlockExpander {
  struct Position {
    const std::byte* panel;
    const std::byte* next;  // for PanelsAhead: about where the next slice is
    int64_t slot;
    int64_t col;
  };
  PanelGeometry geometry;
  BlockGeometry block;
  Position at[kMicroPanels];

  void Begin(const LinearTask& task, int64_t row, int count) {
    const LinearWeight& weight = *task.weight;
    geometry = GeometryOf(weight.spec, weight.rows, weight.cols);
    block = BlockGeometryOf(weight.spec, weight.cols);
    for (int p = 0; p < count; ++p) {
      const std::byte* panel = weight.data.data() + PanelOffset(weight, row / kPanelRows + p);
      at[p] = {panel, panel, 0, 0};
    }
  }
  void Expand(int p, int64_t units, std::byte* out) {
    Position& now = at[p];
    const std::byte* index = now.panel + geometry.scale_bytes;
    const std::byte* values = index + block.index_bytes;
    __builtin_memset(out, 0, static_cast<size_t>(units) * 64);
    const int64_t blocks = kBlockCols / block.block_cols;
    for (const int64_t end = now.col + units; now.col < end; now.col += kBlockCols) {
      if (now.col % block.run == 0) now.slot = (now.slot + 3) / 4 * 4;
      GroupScale<PlainI8> scale;
      scale.Begin(now.panel, now.col / kBlockCols / geometry.group_blocks, 0);
      const int64_t first = now.col / block.block_cols;
      uint32_t bits = IndexBits(index, first / 8 * 8) >> first % 8;
      if (blocks < 32) bits &= (1u << blocks) - 1;
      for (; bits != 0; bits &= bits - 1) {
        std::byte* to = out + __builtin_ctz(bits) * block.block_cols * 64;
        for (int64_t i = 0; i < block.block_cols; ++i, ++now.slot, to += 64) {
          const UnitI8 unit = LoadI8(values + now.slot / 4 * 64);
          StoreF(reinterpret_cast<float*>(to), scale.Of(unit, static_cast<int>(now.slot % 4)));
        }
      }
      out += kBlockCols * 64;
    }
    now.next = values + now.slot / 4 * 64;
  }
  Ahead Next(const LinearTask& task, int64_t row, int count, bool last_slice) const {
    return PanelsAhead(*task.weight, row, count, last_slice, at);
  }
};

XFormat LinearWeightOnlyX(const WeightSpec&, int64_t) {
  return CellsX(XElement::kF32RoundedToBf16, 0, kMicroTokens);
}

template <template <bool> class Masked>
HARROW_INLINE void MaskedWeightOnly(const LinearTask& task) {
  if (task.weight->spec.format == FormatId::kNm) {
    Expanded<MathF32, ScaledExpander<Masked<true>>>(task);
  } else {
    Expanded<MathF32, ScaledExpander<Masked<false>>>(task);
  }
}
template <bool kFixedStride>
using MaskedS4 = MaskedI4<kFixedStride, false>;
template <bool kFixedStride>
using MaskedU4 = MaskedI4<kFixedStride, true>;

void LinearWeightOnly(const LinearTask& task) noexcept {
  const WeightSpec& spec = task.weight->spec;
  if (spec.format == FormatId::kBlock) return Expanded<MathF32, BlockExpander>(task);
  const bool plain = spec.format == FormatId::kDensePanel;
  switch (spec.values) {
    case ValueType::kI4:
      return plain ? Expanded<MathF32, ScaledExpander<PlainI4<false>>>(task)
                   : MaskedWeightOnly<MaskedS4>(task);
    case ValueType::kU4:
      return plain ? Expanded<MathF32, ScaledExpander<PlainI4<true>>>(task)
                   : MaskedWeightOnly<MaskedU4>(task);
    default:
      if (IsQuadMask(spec)) return Expanded<MathF32, ScaledExpander<QuadI8>>(task);
      return plain ? Expanded<MathF32, ScaledExpander<PlainI8>>(task)
                   : MaskedWeightOnly<MaskedI8>(task);
  }
}
