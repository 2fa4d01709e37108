// The denominator of every "fraction of the roof": reading memory as fast as this machine can.
#ifndef HARROW_KERNELS_READ_STREAM_H_
#define HARROW_KERNELS_READ_STREAM_H_

#include <cstdint>
#include <span>

namespace harrow {

// Reads all of `words` once, front to back, and returns their bitwise or (so that the reads cannot
// be left out). It asks 12 KiB ahead where the hardware's prefetcher alone is slower (Zen 5: 32
// GB/s a thread where 39 are there), as kernels do: a slower probe would flatter them.
uint64_t ReadStream(std::span<const uint64_t> words) noexcept;

}  // namespace harrow

#endif  // HARROW_KERNELS_READ_STREAM_H_
