// From panel bytes to units in registers. Part of linear-inl.h.

// The masked formats. A block is 512 mask bits, then the stored codes. `stride` is the size of
// every block where that is fixed (nm), so that a block need not wait for the bit counts of the
// last.
//
// Where that wait is the limit (bitmask, few tokens) its length counts: the counts are added as a
// tree, 0.90 ns a unit on Zen 5 where one after the other took 1.07.
template <int kCodeBytes, bool kFixedStride>
struct MaskedBlocks {
  const std::byte* block;
  const std::byte* next;
  int64_t stride;
  Background background;
  uint64_t offsets[8];  // in codes, of each mask word's first code

  HARROW_INLINE void Begin(const std::byte* in, int64_t block_stride) {
    next = in;
    stride = block_stride;
    background = MakeBackground(kCodeBytes == 1 ? 128 : 0);
  }
  HARROW_INLINE uint64_t Word(int i) const {
    uint64_t word;
    __builtin_memcpy(&word, block + 8 * i, sizeof(word));
    return word;
  }
  HARROW_INLINE uint64_t Bits(int i) const {
    return static_cast<uint64_t>(__builtin_popcountll(Word(i)));
  }
  HARROW_INLINE void BeginBlock() {
    block = next;
    const uint64_t first2 = Bits(0) + Bits(1);
    const uint64_t second2 = Bits(2) + Bits(3);
    const uint64_t third2 = Bits(4) + Bits(5);
    const uint64_t first4 = first2 + second2;
    const uint64_t third6 = first4 + third2;
    offsets[0] = 0;
    offsets[1] = Bits(0);
    offsets[2] = first2;
    offsets[3] = first2 + Bits(2);
    offsets[4] = first4;
    offsets[5] = first4 + Bits(4);
    offsets[6] = third6;
    offsets[7] = third6 + Bits(6);
    if constexpr (kFixedStride) {
      next = block + stride;
    } else {
      uint64_t total = first4 + (third2 + (Bits(6) + Bits(7)));
      __asm__("" : "+r"(total));  // keeps the compiler from chaining it behind offsets[7]
      next = block + kMaskBytes + kCodeBytes * total;
    }
  }
  HARROW_INLINE const std::byte* Codes(int i) const {
    return block + kMaskBytes + kCodeBytes * offsets[i];
  }
  // Asks for what stands kFetchDistance after mask word i's codes, and `bytes` on.
  HARROW_INLINE void FetchAfter(int i, int64_t bytes) const { FetchLater(Codes(i) + bytes); }
};

template <bool kFixedStride>
struct MaskedBf16 : MaskedBlocks<2, kFixedStride> {
  static constexpr int kUnits = 16;

  // A mask word's codes are up to two lines.
  HARROW_INLINE void Fetch(int u) const { this->FetchAfter(u / 2, u % 2 * 64); }
  HARROW_INLINE Unit Next(int u) {
    const uint64_t word = this->Word(u / 2);
    const uint32_t low = static_cast<uint32_t>(word);
    const std::byte* codes = this->Codes(u / 2);
    if (u % 2 == 0) return ExpandBf16(this->background, codes, low);
    return ExpandBf16(this->background, codes + 2 * static_cast<uint64_t>(__builtin_popcount(low)),
                      static_cast<uint32_t>(word >> 32));
  }
};

template <bool kFixedStride>
struct MaskedI8 : MaskedBlocks<1, kFixedStride> {
  static constexpr int kUnits = 8;
  static constexpr bool kDirect = false;

  HARROW_INLINE void Fetch(int u) const { this->FetchAfter(u, 0); }
  HARROW_INLINE UnitI8 Next(int u) {
    return ExpandI8(this->background, this->Codes(u), this->Word(u));
  }
};

struct PlainI8 {
  static constexpr int kUnits = 8;
  static constexpr bool kDirect = kOffsetWeights;  // the stored form is what DotI8 takes
  const std::byte* block;
  const std::byte* next;

  HARROW_INLINE void Begin(const std::byte* in, int64_t) { next = in; }
  HARROW_INLINE void BeginBlock() {
    block = next;
    next = block + kBlockWeights;
  }
  HARROW_INLINE void Fetch(int u) const { FetchLater(block + 64 * u); }
  HARROW_INLINE UnitI8 Next(int u) { return LoadI8(block + 64 * u); }
};
