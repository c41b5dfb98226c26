// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) and how its
// numbers are addressed here: a random number is a function of (seed, stream, offset, element,
// draw). It is the same on every device, for any number of threads and any block size, and can be
// recomputed instead of stored.
#pragma once

#include <cstdint>

#include "macros.h"

namespace sprout_fast {

// The family of numbers that a draw belongs to. One offset serves all of them without overlap.
enum class Stream : uint32_t { kImageNoise = 0, kGamma = 1, kMixup = 2 };

struct Philox4 {
  uint32_t w0, w1, w2, w3;
};

// The two halves of a product. On the device the high one is read through a double, because nvcc 13
// adds a zero to the high half of a shifted product, and to that of __umulhi if it does not split
// the multiplication in two: 50 % more instructions per Philox block.
struct Product {
  uint32_t low, high;
  SPROUT_HOST_DEVICE Product(uint32_t a, uint32_t b) {
    const uint64_t product = static_cast<uint64_t>(a) * b;
    low = static_cast<uint32_t>(product);
#if defined(__CUDA_ARCH__)
    high = static_cast<uint32_t>(__double2hiint(__longlong_as_double(product)));
#else
    high = static_cast<uint32_t>(product >> 32);
#endif
  }
};

constexpr uint32_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;

SPROUT_HOST_DEVICE Philox4 philox4x32_10(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3,
                                         uint32_t k0, uint32_t k1) {
#if defined(__CUDACC__)
#pragma unroll
#endif
  for (int round = 0; round < 10; ++round) {
    const Product p0(kMultiplier0, c0), p1(kMultiplier1, c2);
    const uint32_t n0 = p1.high ^ c1 ^ k0;
    const uint32_t n2 = p0.high ^ c3 ^ k1;
    c1 = p1.low;
    c3 = p0.low;
    c0 = n0;
    c2 = n2;
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  return {c0, c1, c2, c3};
}

// The random numbers of one call: rng_state = (seed, offset, first_row), unpacked. A state that is
// kept between calls is (seed, offset) alone, and first_row a number of its own.
struct PhiloxCall {
  uint32_t key0, key1;    // the seed
  uint32_t offset;        // which call
  int64_t first_element;  // first_row x elements_per_row: where this rank's numbers begin

  SPROUT_HOST_DEVICE PhiloxCall(const int64_t* rng_state, int64_t elements_per_row,
                                const int64_t* first_row = nullptr)
      : key0(static_cast<uint32_t>(rng_state[0])),
        key1(static_cast<uint32_t>(static_cast<uint64_t>(rng_state[0]) >> 32)),
        offset(static_cast<uint32_t>(rng_state[1])),
        // Unsigned, so that an out-of-range first_row wraps around instead of being undefined.
        first_element(static_cast<int64_t>(
            static_cast<uint64_t>(first_row == nullptr ? rng_state[2] : *first_row) *
            static_cast<uint64_t>(elements_per_row))) {}

  // Leaves (seed, offset, first_row) in `used`, for others that draw in this call, and advances
  // `state`, (seed, offset), to the next one.
  SPROUT_HOST_DEVICE static void advance(int64_t* state, const int64_t* first_row, int64_t* used) {
    used[0] = state[0];
    used[1] = state[1];
    used[2] = *first_row;
    state[1] = static_cast<int64_t>(static_cast<uint64_t>(state[1]) + 1);
  }

  // The four words of draw `draw` of an element, whose index counts from the first row of rank 0.
  SPROUT_HOST_DEVICE Philox4 words(Stream stream, int64_t element, uint32_t draw) const {
    const uint64_t e = static_cast<uint64_t>(element);
    const uint32_t high = static_cast<uint32_t>(e >> 32) & 0x00FFFFFFu;
    return philox4x32_10(static_cast<uint32_t>(e), high | (static_cast<uint32_t>(stream) << 24),
                         draw, offset, key0, key1);
  }
};

}  // namespace sprout_fast
