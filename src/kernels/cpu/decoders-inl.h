// From panel bytes to units in registers. Part of linear-inl.h.
//
// What decoders say of themselves, besides the number of units of a block:
//   kPairs    few tokens take two panels at once
//   kAhead    few tokens: a unit is decoded before the last one meets x; products that wait for a
//             long decoding would fill the schedulers and keep the next one out
// and those of bytes for DotI8:
//   kDirect   the stored form is what DotI8 takes
//   kFactor   what a unit's integers are too large by
//   kZeros    rows have zero points; BeginGroup() is given those of the blocks that follow
// The 4-bit ones yield 16 * (code - 8): shifted into the high half of its byte and seen as q + 128,
// a code needs no other arithmetic. The zero points of u4 are brought in afterwards (ZeroShift).

// The masked formats. A block is 512 mask bits, then the stored codes. `stride` is the size of
// every block where that is fixed (nm), so that a block need not wait for the bit counts of the
// last.
template <int kCodeBits, bool kFixedStride>
struct MaskedBlocks {
  const std::byte* block;
  const std::byte* next;  // bitmask: known after the last unit
  int64_t stride;
  uint64_t passed;  // codes of the block that are behind

  HARROW_INLINE void BeginAt(const std::byte* in, int64_t block_stride) {
    next = in;
    stride = block_stride;
  }
  HARROW_INLINE void BeginBlock() {
    block = next;
    passed = 0;
    if constexpr (kFixedStride) next = block + stride;
  }
  // Mask bits as `Word`, loaded once: they are counted in a general register and moved from there
  // to a mask register, which spares one of the two vector loads of a cycle.
  template <class Word>
  HARROW_INLINE Word Mask(int i) const {
    Word word;
    __builtin_memcpy(&word, block + static_cast<int>(sizeof(Word)) * i, sizeof(word));
    __asm__("" : "+r"(word));
    return word;
  }
  HARROW_INLINE const std::byte* Codes() const {
    return block + kMaskBytes + passed * (kCodeBits / 8);
  }
  // Goes behind the codes of `mask`.
  HARROW_INLINE void Pass(uint64_t mask, bool last) {
    passed += static_cast<uint64_t>(__builtin_popcountll(mask));
    if (!kFixedStride && last) next = Codes();
  }
};

template <bool kFixedStride>
struct MaskedBf16 : MaskedBlocks<16, kFixedStride> {
  static constexpr int kUnits = 16;
  static constexpr bool kPairs = true;
  static constexpr bool kAhead = false;
  Background background;

  HARROW_INLINE void Begin(const std::byte* in, int64_t block_stride) {
    this->BeginAt(in, block_stride);
    background = MakeBackground(0);
  }
  HARROW_INLINE void Fetch(int, int64_t distance) const { FetchLater(this->Codes(), distance); }
  HARROW_INLINE Unit Next(int u) {
    const uint32_t mask = this->template Mask<uint32_t>(u);
    const std::byte* codes = this->Codes();
    this->Pass(mask, u == kUnits - 1);
    return ExpandBf16(background, codes, mask);
  }
};

template <bool kFixedStride>
struct MaskedI8 : MaskedBlocks<8, kFixedStride> {
  static constexpr int kUnits = 8;
  static constexpr bool kPairs = true;
  static constexpr bool kAhead = false;
  static constexpr bool kDirect = false;
  static constexpr float kFactor = 1;
  static constexpr bool kZeros = false;
  Background background;

  HARROW_INLINE void Begin(const std::byte* in, int64_t block_stride) {
    this->BeginAt(in, block_stride);
    background = MakeBackground(128);
  }
  HARROW_INLINE void Fetch(int, int64_t distance) const { FetchLater(this->Codes(), distance); }
  HARROW_INLINE UnitI8 Next(int u) {
    const uint64_t mask = this->template Mask<uint64_t>(u);
    const std::byte* codes = this->Codes();
    this->Pass(mask, u == kUnits - 1);
    return ExpandI8(background, codes, mask);
  }
};

// Masks of 1x4 blocks: 128 bits, 16 for a unit of i8 or for two of bf16, then the stored blocks of
// `kBytes` each. Few enough bits that each count is one instruction from the mask.
template <int kBytes>
struct QuadBlocks {
  const std::byte* block;
  const std::byte* next;
  uint64_t words[2];
  uint64_t offsets[8];  // in 1x4 blocks, of the first of each 16 bits
  Background background;

  HARROW_INLINE void BeginBlock() {
    block = next;
    __builtin_memcpy(words, block, sizeof(words));
    const uint64_t half = Bits(words[0]);
    offsets[0] = 0;
    offsets[1] = Bits(words[0] << 48);
    offsets[2] = Bits(words[0] << 32);
    offsets[3] = Bits(words[0] << 16);
    offsets[4] = half;
    offsets[5] = half + Bits(words[1] << 48);
    offsets[6] = half + Bits(words[1] << 32);
    offsets[7] = half + Bits(words[1] << 16);
    next = block + kQuadMaskBytes + kBytes * (half + Bits(words[1]));
  }
  static HARROW_INLINE uint64_t Bits(uint64_t word) {
    return static_cast<uint64_t>(__builtin_popcountll(word));
  }
  HARROW_INLINE uint32_t Mask(int i) const {
    return static_cast<uint32_t>(words[i / 4] >> (i % 4 * 16)) & 0xffff;
  }
  HARROW_INLINE const std::byte* Codes(int i) const {
    return block + kQuadMaskBytes + kBytes * offsets[i];
  }
};

struct QuadBf16 : QuadBlocks<8> {
  static constexpr int kUnits = 16;
  static constexpr bool kPairs = false;
  static constexpr bool kAhead = false;

  HARROW_INLINE void Begin(const std::byte* in, int64_t) {
    next = in;
    background = MakeBackground(0);
  }
  HARROW_INLINE void Fetch(int u, int64_t distance) const {
    FetchLater(Codes(u / 2) + u % 2 * 64, distance);
  }
  HARROW_INLINE Unit Next(int u) {
    const uint32_t mask = Mask(u / 2);
    return ExpandLanes(background, Codes(u / 2) + u % 2 * 4 * Bits(mask), mask);
  }
};

struct QuadI8 : QuadBlocks<4> {
  static constexpr int kUnits = 8;
  static constexpr bool kPairs = false;
  static constexpr bool kAhead = false;
  static constexpr bool kDirect = false;
  static constexpr float kFactor = 1;
  static constexpr bool kZeros = false;

  HARROW_INLINE void Begin(const std::byte* in, int64_t) {
    next = in;
    background = MakeBackground(128);
  }
  HARROW_INLINE void Fetch(int u, int64_t distance) const { FetchLater(Codes(u), distance); }
  HARROW_INLINE UnitI8 Next(int u) { return ExpandLanesI8(background, Codes(u), Mask(u)); }
};

struct PlainI8 {
  static constexpr int kUnits = 8;
  static constexpr bool kPairs = false;
  static constexpr bool kAhead = false;
  static constexpr bool kDirect = kOffsetWeights;
  static constexpr float kFactor = 1;
  static constexpr bool kZeros = false;
  const std::byte* block;
  const std::byte* next;

  HARROW_INLINE void Begin(const std::byte* in, int64_t) { next = in; }
  HARROW_INLINE void BeginBlock() {
    block = next;
    next = block + kBlockWeights;
  }
  HARROW_INLINE void Fetch(int u, int64_t distance) const { FetchLater(block + 64 * u, distance); }
  HARROW_INLINE UnitI8 Next(int u) { return LoadI8(block + 64 * u); }
};

// Units 0 .. 3 are in the low halves of the bytes, 4 .. 7 in the high ones: to `passed` a code is a
// byte. A weight that is not stored must count as its row's zero point.
template <bool kFixedStride, bool kHasZeros>
struct MaskedI4 : MaskedBlocks<8, kFixedStride> {
  static constexpr int kUnits = 8;
  static constexpr bool kPairs = true;
  static constexpr bool kAhead = true;
  static constexpr bool kDirect = false;
  static constexpr float kFactor = 16;
  static constexpr bool kZeros = kHasZeros;
  Background4<kHasZeros> background;
  uint64_t low;  // codes of units 0 .. 3

  HARROW_INLINE void Begin(const std::byte* in, int64_t block_stride) {
    this->BeginAt(in, block_stride);
    background = MakeBackground4<kHasZeros>();
  }
  HARROW_INLINE void BeginGroup(I zeros) { background = BackgroundOfLanes(zeros); }
  // The high halves are in the lines of the low ones; the mask is another.
  HARROW_INLINE void Fetch(int u, int64_t distance) const {
    if (u == 0) FetchLater(this->block, distance);
    if (u < 4) FetchLater(this->Codes(), distance);
  }
  HARROW_INLINE UnitI8 Next(int u) {
    const uint64_t mask = this->template Mask<uint64_t>(u);
    if (u == 4) {
      low = this->passed;
      this->passed = 0;
    }
    const std::byte* codes = this->Codes();
    this->Pass(mask, false);
    if (!kFixedStride && u == kUnits - 1) {
      const uint64_t high = this->passed;
      this->next = this->block + kMaskBytes + (low < high ? high : low);
    }
    return u < 4 ? ExpandLowI4(background, codes, mask) : ExpandHighI4(background, codes, mask);
  }
};

template <bool kHasZeros>
struct PlainI4 {
  static constexpr int kUnits = 8;
  static constexpr bool kPairs = false;
  static constexpr bool kAhead = false;
  static constexpr bool kDirect = false;
  static constexpr float kFactor = 16;
  static constexpr bool kZeros = kHasZeros;
  const std::byte* block;
  const std::byte* next;

  HARROW_INLINE void Begin(const std::byte* in, int64_t) { next = in; }
  HARROW_INLINE void BeginGroup(I) {}
  HARROW_INLINE void BeginBlock() {
    block = next;
    next = block + kBlockWeights / 2;
  }
  HARROW_INLINE void Fetch(int u, int64_t distance) const {
    if (u % 2 == 0) FetchLater(block + 32 * u, distance);
  }
  HARROW_INLINE UnitI8 Next(int u) {
    return u % 2 == 0 ? LoadLowI4(block + 32 * u) : LoadHighI4(block + 32 * (u - 1));
  }
};

// What turns a sum of 16 * (code - 8) * x into one of 16 * (code - zero) * x, a token's correction
// being -128 * sum(x): a multiple of -16 * sum(x).
HARROW_INLINE I ZeroShift(I zeros) {
  const int32_t minus8 = -8;
  return AddI(zeros, BroadcastI(&minus8));
}
HARROW_INLINE I WithZeros(I sum, I zero_shift, const int32_t* correction) {
  const int32_t unit = *correction / 8;
  return AddI(sum, MulI(zero_shift, BroadcastI(&unit)));
}
