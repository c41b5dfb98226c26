// Vectors that fill a register of the instruction set, by the vector extensions of GCC and clang:
// operators apply to each lane, and a C-style cast between vectors keeps the bits. For kernels in
// which the compiler's vectorization of plain loops leaves too much in memory. Included by kernels,
// in the namespace of their instruction set.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../../common/elementary.h"
#include "isa.h"

#if defined(__SSE2__)
#pragma GCC diagnostic push
// GCC 12 gives false ones for this header.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

SPROUT_KERNEL_NAMESPACE_BEGIN
namespace {

#if defined(__AVX512F__)
constexpr int64_t kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int64_t kVectorBytes = 32;
#else
constexpr int64_t kVectorBytes = 16;
#endif
constexpr int64_t kLanes = kVectorBytes / 4;

using Floats = float __attribute__((vector_size(kVectorBytes)));
using Ints = int32_t __attribute__((vector_size(kVectorBytes)));
using Words = uint32_t __attribute__((vector_size(kVectorBytes)));
using Wides = uint64_t __attribute__((vector_size(kVectorBytes)));

#if defined(__AVX512F__)
#define SPROUT_BY_WIDTH(avx512, avx2, sse2, otherwise) avx512
#elif defined(__AVX2__)
#define SPROUT_BY_WIDTH(avx512, avx2, sse2, otherwise) avx2
#elif defined(__SSE2__)
#define SPROUT_BY_WIDTH(avx512, avx2, sse2, otherwise) sse2
#else
#define SPROUT_BY_WIDTH(avx512, avx2, sse2, otherwise) otherwise
#endif

#define SPROUT_INLINE inline __attribute__((always_inline))

template <typename Vector, typename T>
SPROUT_INLINE Vector load(const T* from) {
  Vector v;
  memcpy(&v, from, sizeof v);
  return v;
}
template <typename Vector, typename T>
SPROUT_INLINE void store(const Vector& v, T* to) {
  memcpy(to, &v, sizeof v);
}

// Around the caches, for memory that will not be read soon. `to` must be aligned to a vector.
SPROUT_INLINE void store_around_caches(const Floats& v, float* to) {
#if defined(__SSE2__)
  SPROUT_BY_WIDTH(_mm512_stream_ps(to, (__m512)v), _mm256_stream_ps(to, (__m256)v),
                  _mm_stream_ps(to, (__m128)v), );
#else
  store(v, to);
#endif
}
// Before other threads may read what was stored like that.
SPROUT_INLINE void finish_stores_around_caches() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// The 64-bit products of the lower halves of 64-bit lanes.
SPROUT_INLINE Wides product_of_lower_halves(const Wides& a, const Wides& b) {
  return SPROUT_BY_WIDTH((Wides)_mm512_mul_epu32((__m512i)a, (__m512i)b),
                         (Wides)_mm256_mul_epu32((__m256i)a, (__m256i)b),
                         (Wides)_mm_mul_epu32((__m128i)a, (__m128i)b),
                         (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu));
}

// In each 128 bits, which instructions cross at a higher price only: lanes 0 and 1, or 2 and 3, of
// `a` and of `b` in turn.
SPROUT_INLINE Words interleave_low(const Words& a, const Words& b) {
#if defined(__SSE2__)
  return SPROUT_BY_WIDTH((Words)_mm512_unpacklo_epi32((__m512i)a, (__m512i)b),
                         (Words)_mm256_unpacklo_epi32((__m256i)a, (__m256i)b),
                         (Words)_mm_unpacklo_epi32((__m128i)a, (__m128i)b), );
#else
  return Words{a[0], b[0], a[1], b[1]};
#endif
}
SPROUT_INLINE Words interleave_high(const Words& a, const Words& b) {
#if defined(__SSE2__)
  return SPROUT_BY_WIDTH((Words)_mm512_unpackhi_epi32((__m512i)a, (__m512i)b),
                         (Words)_mm256_unpackhi_epi32((__m256i)a, (__m256i)b),
                         (Words)_mm_unpackhi_epi32((__m128i)a, (__m128i)b), );
#else
  return Words{a[2], b[2], a[3], b[3]};
#endif
}

// In each 128 bits, the lower halves of the two lanes of `a`, then of `b`.
SPROUT_INLINE Words lower_halves(const Wides& a, const Wides& b) {
#if defined(__SSE2__)
  return SPROUT_BY_WIDTH((Words)_mm512_shuffle_ps((__m512)a, (__m512)b, 0x88),
                         (Words)_mm256_shuffle_ps((__m256)a, (__m256)b, 0x88),
                         (Words)_mm_shuffle_ps((__m128)a, (__m128)b, 0x88), );
#else
  return Words{static_cast<uint32_t>(a[0]), static_cast<uint32_t>(a[1]),
               static_cast<uint32_t>(b[0]), static_cast<uint32_t>(b[1])};
#endif
}

// Which lanes of a vector are set.
using Mask = SPROUT_BY_WIDTH(__mmask16, Ints, Ints, Ints);
SPROUT_INLINE Mask equal(const Ints& a, const Ints& b) {
  return SPROUT_BY_WIDTH(_mm512_cmpeq_epi32_mask((__m512i)a, (__m512i)b), a == b, a == b, a == b);
}
SPROUT_INLINE Mask less(const Floats& a, const Floats& b) {
  return SPROUT_BY_WIDTH(_mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OS), a < b, a < b, a < b);
}

#if defined(__AVX2__) && !defined(__AVX512F__)
// For each mask of 8 lanes, the lanes that are set, in order.
struct SetLanes {
  uint8_t lane[256][8];
};
constexpr SetLanes set_lanes() {
  SetLanes table = {};
  for (int mask = 0; mask < 256; ++mask) {
    for (int lane = 0, n = 0; lane < 8; ++lane) {
      if (((mask >> lane) & 1) != 0) table.lane[mask][n++] = static_cast<uint8_t>(lane);
    }
  }
  return table;
}
#endif

// The lanes of a mask that are set, to take them out of vectors.
class Compaction {
 public:
#if defined(__AVX512F__)
  explicit Compaction(const Mask& mask) : mask_(mask), count_(__builtin_popcount(mask)) {}
#elif defined(__AVX2__)
  explicit Compaction(const Mask& mask) {
    static constexpr SetLanes kSetLanes = set_lanes();
    const int set = _mm256_movemask_ps((__m256)mask);
    count_ = __builtin_popcount(static_cast<unsigned>(set));
    order_ = _mm256_cvtepu8_epi32(
        _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kSetLanes.lane[set])));
  }
#else
  explicit Compaction(const Mask& mask) : mask_(mask), count_(0) {
    for (int64_t i = 0; i < kLanes; ++i) count_ -= mask[i];
  }
#endif
  int64_t count() const { return count_; }

  // Stores those lanes of `v` in order, then any numbers, kLanes in all. (AVX-512's instruction
  // that stores by itself is slower, at least on a Zen 4.)
  SPROUT_INLINE void store(const Ints& v, void* to) const {
#if defined(__AVX512F__)
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(mask_, (__m512i)v));
#elif defined(__AVX2__)
    _mm256_storeu_si256(static_cast<__m256i*>(to), _mm256_permutevar8x32_epi32((__m256i)v, order_));
#else
    int32_t lanes[kLanes] = {};
    for (int64_t i = 0, n = 0; i < kLanes; n -= mask_[i++]) lanes[n] = v[i];
    memcpy(to, lanes, sizeof lanes);
#endif
  }

 private:
#if defined(__AVX2__) && !defined(__AVX512F__)
  __m256i order_;
#else
  Mask mask_;
#endif
  int64_t count_;
};

// In each 128 bits, the transpose of the 4 x 4 matrix with rows v[0] to v[3].
SPROUT_INLINE void transpose_in_lanes(Words (&v)[4]) {
  const Words low02 = interleave_low(v[0], v[2]), high02 = interleave_high(v[0], v[2]);
  const Words low13 = interleave_low(v[1], v[3]), high13 = interleave_high(v[1], v[3]);
  v[0] = interleave_low(low02, low13);
  v[1] = interleave_high(low02, low13);
  v[2] = interleave_low(high02, high13);
  v[3] = interleave_high(high02, high13);
}

}  // namespace
SPROUT_KERNEL_NAMESPACE_END

namespace sprout_fast {

template <>
struct Lane<SPROUT_ISA::Floats> {
  using Int = SPROUT_ISA::Ints;
  using Word = SPROUT_ISA::Words;
  static SPROUT_HOST_DEVICE SPROUT_ISA::Floats from(const Int& i) {
    return SPROUT_BY_WIDTH(((SPROUT_ISA::Floats)_mm512_cvtepi32_ps((__m512i)i)),
                           ((SPROUT_ISA::Floats)_mm256_cvtepi32_ps((__m256i)i)),
                           ((SPROUT_ISA::Floats)_mm_cvtepi32_ps((__m128i)i)),
                           __builtin_convertvector(i, SPROUT_ISA::Floats));
  }
  static SPROUT_HOST_DEVICE SPROUT_ISA::Floats sqrt(const SPROUT_ISA::Floats& x) {
#if defined(__SSE2__)
    return SPROUT_BY_WIDTH((SPROUT_ISA::Floats)_mm512_sqrt_ps((__m512)x),
                           (SPROUT_ISA::Floats)_mm256_sqrt_ps((__m256)x),
                           (SPROUT_ISA::Floats)_mm_sqrt_ps((__m128)x), );
#else
    return {std::sqrt(x[0]), std::sqrt(x[1]), std::sqrt(x[2]), std::sqrt(x[3])};
#endif
  }
};

}  // namespace sprout_fast

SPROUT_KERNEL_NAMESPACE_BEGIN
namespace {

// kLanes consecutive numbers.
SPROUT_INLINE Floats load_floats(const float* from) { return load<Floats>(from); }
SPROUT_INLINE Floats load_floats(const uint8_t* from) {
#if defined(__AVX512F__)
  return (Floats)_mm512_cvtepi32_ps(
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#elif defined(__AVX2__)
  return (Floats)_mm256_cvtepi32_ps(
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
#else
  int32_t four;
  memcpy(&four, from, sizeof four);
  const Ints spread = Ints() + four;
  return Lane<Floats>::from(Ints{spread[0] & 0xFF, spread[1] >> 8 & 0xFF, spread[2] >> 16 & 0xFF,
                                 spread[3] >> 24 & 0xFF});
#endif
}

}  // namespace
SPROUT_KERNEL_NAMESPACE_END
