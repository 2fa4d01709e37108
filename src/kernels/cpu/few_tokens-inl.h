// Products with few tokens, bound by memory. Part of linear-inl.h.

// ---- row-major weights, few tokens

// acc[t * R + r] += w . x of token t, whose chunks stand 64 bytes apart.
template <class Math, int R, int... t>
HARROW_INLINE void StepRow(F* acc, int r, F w, const std::byte* x, Ints<t...>) {
  ((acc[t * R + r] = Math::Step(acc[t * R + r], w, LoadF(x + 64 * t))), ...);
}
// R chunks, one for each partial sum.
template <class Math, class Loader, int T, int... r>
HARROW_INLINE void StepChunks(F* acc, const std::byte* w, const std::byte* x, int64_t distance,
                              Ints<r...>) {
  ((FetchLater(w + r * Loader::kBytes, distance),
    StepRow<Math, sizeof...(r)>(acc, r, Loader::Load(w + r * Loader::kBytes), x + r * 64 * T,
                                Count<T>())),
   ...);
}
template <int R, int... t>
HARROW_INLINE void StoreSums(const LinearTask& task, int64_t row, const F* acc, Ints<t...>) {
  ((task.y[t * task.y_stride + row] = Sum(SumPartials<R>(acc + t * R))), ...);
}
template <class Loader>
HARROW_INLINE F LoadRest(const std::byte* w, int64_t rest) {
  std::byte last[Loader::kBytes] = {};
  __builtin_memcpy(last, w, static_cast<size_t>(rest));
  return Loader::Load(last);
}

template <class Math, class Loader, int T>
HARROW_INLINE void OneRow(const LinearTask& task, int64_t row, int64_t row_bytes) {
  constexpr int R = Partials(T);
  const std::byte* w = task.weight->data.data() + row * row_bytes;
  const std::byte* x = task.x->values;
  const int64_t whole = row_bytes / Loader::kBytes;
  const int64_t distance = task.fetch_distance;
  F acc[T * R];
  Clear(acc, ZeroF(), Count<T * R>());
  int64_t chunk = 0;
  for (; chunk + R <= whole; chunk += R) {
    StepChunks<Math, Loader, T>(acc, w, x, distance, Count<R>());
    w += R * Loader::kBytes;
    x += R * 64 * T;
  }
  for (; chunk < whole; ++chunk) {
    StepRow<Math, R>(acc, 0, Loader::Load(w), x, Count<T>());
    w += Loader::kBytes;
    x += 64 * T;
  }
  if (const int64_t rest = row_bytes % Loader::kBytes; rest > 0)
    StepRow<Math, R>(acc, 0, LoadRest<Loader>(w, rest), x, Count<T>());
  StoreSums<R>(task, row, acc, Count<T>());
}

template <class Math, class Loader, int T>
void RowsKernel(const LinearTask& task) noexcept {
  const int64_t row_bytes = static_cast<int64_t>(task.weight->data.size()) / task.weight->rows;
  for (int64_t row = task.row_begin; row < task.row_end; ++row)
    OneRow<Math, Loader, T>(task, row, row_bytes);
}

// ---- row-major weights, some tokens
//
// From 5 tokens on x costs more loads than W unless several rows share it, and the stream of W must
// not wait for the arithmetic. Blocks of rows take T tokens at a time; a group of kGroupRows stays
// in second-level cache for all token blocks, each of which asks for its share of the next group.
// Where the distance is 0 they ask for lines that are loaded right away.

constexpr int64_t kGroupRows = 12;  // a multiple of all BlockRows()
constexpr int BlockRows(int tokens) {
  return tokens <= 6 ? 4 : 3;
}

template <class Math, int R, int... r>
HARROW_INLINE void StepToken(F* acc, const F* w, F x, Ints<r...>) {
  ((acc[r] = Math::Step(acc[r], w[r], x)), ...);
}
// A chunk of R rows, w[r], for all tokens; acc[t * R + r].
template <class Math, int R, int... t>
HARROW_INLINE void StepChunk(F* acc, const F* w, const std::byte* x, Ints<t...>) {
  (StepToken<Math, R>(acc + t * R, w, LoadF(x + 64 * t), Count<R>()), ...);
}
template <class Loader, int... r>
HARROW_INLINE void LoadChunk(F* out, const std::byte* w, int64_t row_bytes, Ints<r...>) {
  ((out[r] = Loader::Load(w + r * row_bytes)), ...);
}
template <class Loader, int... r>
HARROW_INLINE void LoadRests(F* out, const std::byte* w, int64_t row_bytes, int64_t rest,
                             Ints<r...>) {
  ((out[r] = LoadRest<Loader>(w + r * row_bytes, rest)), ...);
}
template <int... r>
HARROW_INLINE void FetchRows(const std::byte* w, int64_t row_bytes, Ints<r...>) {
  (__builtin_prefetch(w + r * row_bytes, 0, 2), ...);
}
template <int R, int... i>
HARROW_INLINE void StoreRowBlock(float* y, int64_t y_stride, const F* acc, Ints<i...>) {
  ((y[i / R * y_stride + i % R] = Sum(acc[i])), ...);
}

// R rows times T tokens from `token` on. Of every two chunks it asks for those `ahead` on.
template <class Math, class Loader, int R, int T>
HARROW_INLINE void RowBlock(const LinearTask& task, int64_t row, int64_t row_bytes, int64_t token,
                            const int64_t* ahead) {
  const std::byte* w = task.weight->data.data() + row * row_bytes;
  const std::byte* x = task.x->values + token * task.x->units * 64;
  F acc[R * T];
  F chunk[R];
  Clear(acc, ZeroF(), Count<R * T>());
  int64_t left = row_bytes;
  for (; left >= 2 * Loader::kBytes; left -= 2 * Loader::kBytes) {
    LoadChunk<Loader>(chunk, w, row_bytes, Count<R>());
    FetchRows(w + ahead[0], row_bytes, Count<R>());
    StepChunk<Math, R>(acc, chunk, x, Count<T>());
    LoadChunk<Loader>(chunk, w + Loader::kBytes, row_bytes, Count<R>());
    FetchRows(w + ahead[1], row_bytes, Count<R>());
    StepChunk<Math, R>(acc, chunk, x + 64 * T, Count<T>());
    w += 2 * Loader::kBytes;
    x += 2 * 64 * T;
  }
  if (left >= Loader::kBytes) {
    LoadChunk<Loader>(chunk, w, row_bytes, Count<R>());
    StepChunk<Math, R>(acc, chunk, x, Count<T>());
    w += Loader::kBytes;
    x += 64 * T;
    left -= Loader::kBytes;
  }
  if (left > 0) {
    LoadRests<Loader>(chunk, w, row_bytes, left, Count<R>());
    StepChunk<Math, R>(acc, chunk, x, Count<T>());
  }
  StoreRowBlock<R>(task.y + token * task.y_stride + row, task.y_stride, acc, Count<R * T>());
}

// Rows [begin, end) times T tokens from `token` on.
template <class Math, class Loader, int T>
void RowsTokens(const LinearTask& task, int64_t begin, int64_t end, int64_t row_bytes,
                int64_t token, const int64_t* ahead) noexcept {
  int64_t row = begin;
  for (; row + BlockRows(T) <= end; row += BlockRows(T))
    RowBlock<Math, Loader, BlockRows(T), T>(task, row, row_bytes, token, ahead);
  for (; row < end; ++row)
    RowBlock<Math, Loader, 1, T>(task, row, row_bytes, token, ahead);
}

template <class Math, class Loader, int... kTokens>
HARROW_INLINE auto RowsTokensOf(int64_t tokens, std::integer_sequence<int, kTokens...>) {
  using Fn =
      void (*)(const LinearTask&, int64_t, int64_t, int64_t, int64_t, const int64_t*) noexcept;
  static constexpr Fn kTable[] = {&RowsTokens<Math, Loader, kTokens + 1>...};
  return kTable[tokens - 1];
}

template <class Math, class Loader>
HARROW_INLINE void RowGroups(const LinearTask& task) {
  const PackedX& x = *task.x;
  const int64_t row_bytes = static_cast<int64_t>(task.weight->data.size()) / task.weight->rows;
  const int64_t group_bytes = kGroupRows * row_bytes;
  const int64_t distance = (task.fetch_distance + group_bytes - 1) / group_bytes * group_bytes;
  for (int64_t row = task.row_begin; row < task.row_end; row += kGroupRows) {
    const int64_t end = row + kGroupRows < task.row_end ? row + kGroupRows : task.row_end;
    for (int64_t b = 0; b < x.blocks; ++b) {
      const int64_t token = x.BlockBegin(b);
      const int64_t ahead[2] = {distance + (b == 0 ? 0 : Loader::kBytes),
                                distance + (b == x.blocks - 1 ? Loader::kBytes : 0)};
      RowsTokensOf<Math, Loader>(x.BlockBegin(b + 1) - token, Count<kRowBlockTokens>())(
          task, row, end, row_bytes, token, ahead);
    }
  }
}

// ---- panels, few tokens
//
// Masked formats take two panels at a time where their sums fit in registers: what is loaded of x
// serves both, and while one waits for the bit counts of a block the other runs. The two come from
// the two halves of a task, so that what FetchLater() asks for at the end of a panel is the
// stream's next one. acc[(p * T + t) * R + r] is partial sum r of token t in panel p.

template <int R, int... t>
HARROW_INLINE void StepUnit(F* acc, int r, Unit w, const std::byte* x, Ints<t...>) {
  ((acc[t * R + r] = MathBf16::StepUnit(acc[t * R + r], w, x, sizeof...(t), t)), ...);
}
template <int R, int... t>
HARROW_INLINE void StepUnit(I* acc, int r, UnitI8 w, const std::byte* x, Ints<t...>) {
  ((acc[t * R + r] = DotCell(acc[t * R + r], w, x + 4 * t)), ...);
}
HARROW_INLINE void StepCell(I* first, I* second, UnitI8 w0, UnitI8 w1, const std::byte* x) {
  const I cell = BroadcastI(x);
  *first = DotI8(*first, w0, cell);
  *second = DotI8(*second, w1, cell);
}
#if HARROW_NATIVE_BF16
HARROW_INLINE void StepCell(F* first, F* second, Unit w0, Unit w1, const std::byte* x) {
  const Unit cell = Pinned(AsUnit(BroadcastF(x)));
  *first = DotBf16(*first, w0, cell);
  *second = DotBf16(*second, w1, cell);
}
#endif
template <int R, class V, class W, int... t>
HARROW_INLINE void StepPair(V* acc, int r, W w0, W w1, const std::byte* x, Ints<t...>) {
  constexpr int T = sizeof...(t);
  (StepCell(acc + t * R + r, acc + (T + t) * R + r, w0, w1, x + 4 * t), ...);
}
// Units u of P panels.
template <int P, class W, class Decoder>
HARROW_INLINE void NextUnits(W* out, Decoder* decoders, int u, int64_t distance) {
  decoders[0].Fetch(u, distance);
  if constexpr (P == 2) decoders[1].Fetch(u, distance);
  out[0] = decoders[0].Next(u);
  if constexpr (P == 2) out[1] = decoders[1].Next(u);
}
template <int T, int R, int P, class V, class W>
HARROW_INLINE void StepUnits(V* acc, int r, const W* w, const std::byte* x) {
  if constexpr (P == 1) {
    StepUnit<R>(acc, r, w[0], x, Count<T>());
  } else {
    StepPair<R>(acc, r, w[0], w[1], x, Count<T>());
  }
}
// One block; x_bytes is what one unit takes of x.
template <int T, int R, int P, class V, class Decoder, int... u>
HARROW_INLINE void StepBlock(V* acc, Decoder* decoders, const std::byte* x, int64_t x_bytes,
                             int64_t distance, Ints<u...>) {
  constexpr int kUnits = Decoder::kUnits;
  constexpr int kAhead = Decoder::kAhead ? 1 : 0;
  decoders[0].BeginBlock();
  if constexpr (P == 2) decoders[1].BeginBlock();
  decltype(decoders->Next(0)) w[kUnits][P];
  if constexpr (kAhead == 1) NextUnits<P>(w[0], decoders, 0, distance);
  ((u + kAhead < kUnits ? NextUnits<P>(w[u + kAhead], decoders, u + kAhead, distance) : void(),
    StepUnits<T, R, P>(acc, u % R, w[u], x + u * x_bytes)),
   ...);
}
// Rows of half the panels of a task. One more panel may be left, the last of W (kTaskRows), so that
// the order of sums does not depend on how tasks are cut.
HARROW_INLINE int64_t HalfRows(const LinearTask& task) {
  const int64_t panels = (task.row_end - task.row_begin + kPanelRows - 1) / kPanelRows;
  return panels / 2 * kPanelRows;
}
template <int R, int... t>
HARROW_INLINE void StorePanel(const LinearTask& task, int64_t row, const F* acc, Ints<t...>) {
  (StoreLanes(task.y + t * task.y_stride + row, SumPartials<R>(acc + t * R), task.row_end - row),
   ...);
}

// The panels that begin at P rows.
template <class Decoder, int T, int P>
HARROW_INLINE void PanelsBf16(const LinearTask& task, const PanelGeometry& g, const int64_t* rows) {
  constexpr int R = Partials(T * P);
  constexpr int64_t kXBytes = 4 * MathBf16::kCellsPerUnit * T;
  const LinearWeight& weight = *task.weight;
  const int64_t stride = BlockStride(weight.spec);
  Decoder decoders[P];
  decoders[0].Begin(weight.data.data() + PanelOffset(weight, rows[0] / kPanelRows), stride);
  if constexpr (P == 2)
    decoders[1].Begin(weight.data.data() + PanelOffset(weight, rows[1] / kPanelRows), stride);
  const std::byte* x = task.x->values;
  const int64_t distance = task.fetch_distance;
  F acc[P * T * R];
  Clear(acc, ZeroF(), Count<P * T * R>());
  for (int64_t b = 0; b < g.blocks; ++b) {
    StepBlock<T, R, P>(acc, decoders, x, kXBytes, distance, Count<Decoder::kUnits>());
    x += Decoder::kUnits * kXBytes;
  }
  StorePanel<R>(task, rows[0], acc, Count<T>());
  if constexpr (P == 2) StorePanel<R>(task, rows[1], acc + T * R, Count<T>());
}
template <class Decoder, int T>
void FusedBf16(const LinearTask& task) noexcept {
  const PanelGeometry g = GeometryOf(task.weight->spec, task.weight->rows, task.weight->cols);
  int64_t row = task.row_begin;
  if constexpr (HARROW_NATIVE_BF16 && Decoder::kPairs && T <= kPairTokens) {
    const int64_t half = HalfRows(task);
    for (const int64_t end = row + half; row < end; row += kPanelRows) {
      const int64_t rows[2] = {row, row + half};
      PanelsBf16<Decoder, T, 2>(task, g, rows);
    }
    row += half;
  }
  for (; row < task.row_end; row += kPanelRows)
    PanelsBf16<Decoder, T, 1>(task, g, &row);
}

// Starts the sums of a group at the correction for q + 128, where weights are stored so.
template <int R, int... t>
HARROW_INLINE void BeginGroup(I* acc, const int32_t* corrections, Ints<t...>) {
  if constexpr (kOffsetWeights) ((acc[t * R] = Own(BroadcastI(corrections + t))), ...);
}
// out[t] += sum * scale of the weights * scale of x.
template <int R, int... t>
HARROW_INLINE void EndGroup(F* out, const I* acc, F scale, const float* x_scales, Ints<t...>) {
  ((out[t] = Fma(ToF(SumPartials<R>(acc + t * R)), Mul(scale, BroadcastF(x_scales + t)), out[t])),
   ...);
}
template <int R, int... t>
HARROW_INLINE void AddZeros(I* acc, I zero_shift, const int32_t* corrections, Ints<t...>) {
  ((acc[t * R] = WithZeros(acc[t * R], zero_shift, corrections + t)), ...);
}

// One panel's part of what begins a panel, and begins and ends a group. Returns the panel.
template <class Decoder>
HARROW_INLINE const std::byte* BeginPanel(const LinearWeight& weight, const PanelGeometry& g,
                                          int64_t panel, int64_t distance, Decoder* decoder) {
  const std::byte* begin = weight.data.data() + PanelOffset(weight, panel);
  for (int64_t i = 0; i < g.scale_bytes; i += 64)
    FetchLater(begin + i, distance);
  decoder->Begin(begin + g.scale_bytes, BlockStride(weight.spec));
  return begin;
}
template <int T, int R, class Decoder>
HARROW_INLINE void BeginPanelGroup(I* acc, Decoder* decoder, const std::byte* zeros_at,
                                   const int32_t* corrections) {
  BeginGroup<R>(acc, corrections, Count<T>());
  if constexpr (Decoder::kZeros) {
    const I zeros = LoadBytes(zeros_at);
    decoder->BeginGroup(zeros);
    AddZeros<R>(acc, ZeroShift(zeros), corrections, Count<T>());
  }
}
template <int T, int R, class Decoder>
HARROW_INLINE void EndPanelGroup(F* out, const I* acc, const std::byte* scales,
                                 const float* x_scales) {
  F scale = LoadBf16(scales);
  if constexpr (Decoder::kFactor != 1) {
    const float inverse = 1 / Decoder::kFactor;
    scale = Mul(scale, BroadcastF(&inverse));
  }
  EndGroup<R>(out, acc, scale, x_scales, Count<T>());
}

// The panels that begin at P rows.
template <class Decoder, int T, int P>
HARROW_INLINE void PanelsI8(const LinearTask& task, const PanelGeometry& g, const int64_t* rows) {
  constexpr int R = Partials(T * P);
  const LinearWeight& weight = *task.weight;
  const PackedX& x = *task.x;
  const int64_t x_group_blocks = x.format.group / kBlockCols;
  const int64_t x_groups_per_scale = weight.spec.group / x.format.group;
  const std::byte* panels[P];
  Decoder decoders[P];
  const int64_t distance = task.fetch_distance;
  panels[0] = BeginPanel(weight, g, rows[0] / kPanelRows, distance, &decoders[0]);
  if constexpr (P == 2)
    panels[1] = BeginPanel(weight, g, rows[1] / kPanelRows, distance, &decoders[1]);
  const std::byte* cells = x.values;
  F out[P * T];
  Clear(out, ZeroF(), Count<P * T>());
  int64_t block = 0;
  for (int64_t group = 0; group < x.groups; ++group) {
    I acc[P * T * R];
    Clear(acc, ZeroI(), Count<P * T * R>());
    const int64_t weight_group = group / x_groups_per_scale;
    const int64_t zeros_at = g.zeros_at() + weight_group * kPanelRows;
    const int32_t* corrections = x.corrections + group * T;
    BeginPanelGroup<T, R>(acc, &decoders[0], panels[0] + zeros_at, corrections);
    if constexpr (P == 2)
      BeginPanelGroup<T, R>(acc + T * R, &decoders[1], panels[1] + zeros_at, corrections);
    const int64_t end = block + x_group_blocks < g.blocks ? block + x_group_blocks : g.blocks;
    for (; block < end; ++block) {
      StepBlock<T, R, P>(acc, decoders, cells, 4 * T, distance, Count<Decoder::kUnits>());
      cells += Decoder::kUnits * 4 * T;
    }
    const int64_t scales_at = weight_group * (2 * kPanelRows);
    const float* x_scales = x.scales + group * T;
    EndPanelGroup<T, R, Decoder>(out, acc, panels[0] + scales_at, x_scales);
    if constexpr (P == 2)
      EndPanelGroup<T, R, Decoder>(out + T, acc + T * R, panels[1] + scales_at, x_scales);
  }
  StorePanel<1>(task, rows[0], out, Count<T>());
  if constexpr (P == 2) StorePanel<1>(task, rows[1], out + T, Count<T>());
}
template <class Decoder, int T>
void FusedI8(const LinearTask& task) noexcept {
  const PanelGeometry g = GeometryOf(task.weight->spec, task.weight->rows, task.weight->cols);
  int64_t row = task.row_begin;
  if constexpr (Decoder::kPairs && T <= kPairTokens) {
    const int64_t half = HalfRows(task);
    for (const int64_t end = row + half; row < end; row += kPanelRows) {
      const int64_t rows[2] = {row, row + half};
      PanelsI8<Decoder, T, 2>(task, g, rows);
    }
    row += half;
  }
  for (; row < task.row_end; row += kPanelRows)
    PanelsI8<Decoder, T, 1>(task, g, &row);
}
