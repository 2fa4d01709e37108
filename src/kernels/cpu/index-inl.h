// Products with weights that carry their indices, for any number of tokens. Part of linear-inl.h.
//
// x of a tile stays in registers (XTile) and each step looks its inputs up there, so that only
// stored weights are multiplied, for many tokens as for one. A step's indices and codes are loaded
// once for T tokens. Tokens stand one after the other, not interleaved.

template <int T, int... t>
HARROW_INLINE void StepIndexed(I* acc, const XTile* x, const std::byte* step, Ints<t...>) {
  ((acc[t] = DotIndexed(acc[t], x[t], step)), ...);
}
template <int... t>
HARROW_INLINE void LoadTiles(XTile* tiles, const std::byte* x, int64_t stride, Ints<t...>) {
  ((tiles[t] = LoadXTile(x + t * stride)), ...);
}
template <int... t>
HARROW_INLINE void EndTile(F* out, const I* acc, I offset, F scale, const float* x_scales,
                           int64_t stride, Ints<t...>) {
  ((out[t] = Fma(ToF(SubI(acc[t], offset)), Mul(scale, BroadcastF(x_scales + t * stride)), out[t])),
   ...);
}

// One panel times T tokens.
template <int T>
void IndexPanel(const LinearTask& task, const IndexGeometry& g, int64_t scale_bytes, int64_t row,
                int64_t token) noexcept {
  const PackedX& x = *task.x;
  const LinearWeight& weight = *task.weight;
  const std::byte* panel = weight.data.data() + PanelOffset(weight, row / kPanelRows);
  const std::byte* counts = panel + scale_bytes;
  const std::byte* step = counts + g.count_bytes;
  const int64_t distance = task.fetch_distance;
  for (const std::byte* p = panel; p < step; p += 64)
    FetchLater(p, distance);
  const std::byte* inputs = x.values + token * x.units * 4;
  const float* x_scales = x.scales + token * x.groups;
  const int64_t tiles_per_scale = weight.spec.group / g.tile;
  F out[T];
  Clear(out, ZeroF(), Count<T>());
  for (int64_t tile = 0; tile < g.tiles; ++tile) {
    XTile tiles[T];
    LoadTiles(tiles, inputs + tile * g.tile, x.units * 4, Count<T>());
    I acc[T];
    Clear(acc, ZeroI(), Count<T>());
    I offset = ZeroI();
    for (int64_t s = static_cast<int64_t>(counts[tile]); s > 0; --s) {
      FetchLater(step, distance);
      FetchLater(step + 64, distance);
      offset = AddIndexedOffset(offset, step);
      StepIndexed<T>(acc, tiles, step, Count<T>());
      step += kStepBytes;
    }
    const F scale = LoadBf16(panel + tile / tiles_per_scale * (2 * kPanelRows));
    EndTile(out, acc, offset, scale, x_scales + tile, x.groups, Count<T>());
  }
  for (int t = 0; t < T; ++t)
    StoreLanes(task.y + (token + t) * task.y_stride + row, out[t], task.row_end - row);
}

using IndexFn = void (*)(const LinearTask&, const IndexGeometry&, int64_t, int64_t,
                         int64_t) noexcept;
template <int... kTokens>
HARROW_INLINE IndexFn IndexOf(int64_t tokens, std::integer_sequence<int, kTokens...>) {
  static constexpr IndexFn kTable[] = {&IndexPanel<kTokens + 1>...};
  return kTable[tokens - 1];
}

void LinearIndexI8(const LinearTask& task) noexcept {
  const LinearWeight& weight = *task.weight;
  const int64_t scale_bytes = GeometryOf(weight.spec, weight.rows, weight.cols).scale_bytes;
  const IndexGeometry g = IndexGeometryOf(weight.spec, weight.cols);
  for (int64_t row = task.row_begin; row < task.row_end; row += kPanelRows) {
    for (int64_t token = 0; token < task.x->m; token += kIndexTokens) {
      const int64_t left = task.x->m - token;
      IndexOf(left < kIndexTokens ? left : kIndexTokens, Count<kIndexTokens>())(
          task, g, scale_bytes, row, token);
    }
  }
}

// Tokens one after the other.
XFormat LinearIndexX(const WeightSpec& spec, int64_t) {
  XFormat format;
  format.element = XElement::kI8;
  format.layout = XLayout::kCells;
  format.group = static_cast<int32_t>(ActivationGroup(spec.group));
  format.block_tokens = 1;
  return format;
}
