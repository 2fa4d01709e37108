// Owning, 64-byte aligned, zero-initialised memory; large buffers ask for huge pages.
#ifndef HARROW_BASE_BUFFER_H_
#define HARROW_BASE_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>

namespace harrow {

// Never returns null: exhaustion of memory ends the process like operator new. Sizes that come from
// a file must have been validated against that file first.
std::shared_ptr<std::byte> AllocateBytes(uint64_t bytes);

// A fixed-size array of trivial T that starts on a cache line. Movable (which leaves the source
// empty), not copyable.
template <class T>
class AlignedArray {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  AlignedArray() = default;
  explicit AlignedArray(uint64_t count)
      : memory_(AllocateBytes(count * sizeof(T))), count_(static_cast<size_t>(count)) {}

  AlignedArray(AlignedArray&& other) noexcept
      : memory_(std::move(other.memory_)), count_(std::exchange(other.count_, 0)) {}
  AlignedArray& operator=(AlignedArray&& other) noexcept {
    memory_ = std::exchange(other.memory_, nullptr);
    count_ = std::exchange(other.count_, 0);
    return *this;
  }

  // Grows (contents are lost) when smaller than `count`; never shrinks. For scratch that is reused.
  T* Reserve(uint64_t count) {
    if (count > count_) *this = AlignedArray(count);
    return data();
  }

  T* data() { return reinterpret_cast<T*>(memory_.get()); }
  const T* data() const { return reinterpret_cast<const T*>(memory_.get()); }
  size_t size() const { return count_; }
  bool empty() const { return count_ == 0; }
  T& operator[](size_t i) { return data()[i]; }
  const T& operator[](size_t i) const { return data()[i]; }
  T* begin() { return data(); }
  T* end() { return data() + count_; }
  std::span<T> span() { return {data(), count_}; }
  std::span<const T> span() const { return {data(), count_}; }

 private:
  std::shared_ptr<std::byte> memory_;
  size_t count_ = 0;
};

}  // namespace harrow

#endif  // HARROW_BASE_BUFFER_H_
