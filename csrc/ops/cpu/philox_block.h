// Philox for blocks of elements. Included by kernels, in the namespace of their instruction set.
//
// Written by hand for AVX2, where GCC 12's vectorization of the plain loop is three times slower:
// the 32 x 32 -> 64 bit product exists for even lanes only, so each element occupies a 64-bit lane,
// whose upper half the next product ignores.
#pragma once

#include "../../common/philox.h"
#include "isa.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

SPROUT_KERNEL_NAMESPACE_BEGIN
namespace {

constexpr int64_t kPhiloxLanes = 8;

// One draw of one stream, for elements with the same upper 32 bits as `first`. Everything that the
// lanes of a block have in common is computed in advance.
class PhiloxDraw {
 public:
  PhiloxDraw(const PhiloxCall& call, Stream stream, uint32_t draw, [[maybe_unused]] int64_t first)
      : call_(call), stream_(stream), draw_(draw) {
#if defined(__AVX2__)
    const uint32_t high =
        (static_cast<uint32_t>(static_cast<uint64_t>(first) >> 32) & 0x00FFFFFFu) |
        (static_cast<uint32_t>(stream) << 24);
    uint32_t key[10][2];
    for (uint32_t round = 0; round < 10; ++round) {
      key[round][0] = call.key0 + round * kWeyl0;
      key[round][1] = call.key1 + round * kWeyl1;
    }
    // The counter starts as (element, high, draw, offset), of which only the element differs
    // between lanes. So the first and the second round need one product each, and the third still
    // involves a word common to all lanes.
    const Product first_1(kMultiplier1, draw);
    const Product second_0(kMultiplier0, first_1.high ^ high ^ key[0][0]);
    key[0][1] ^= call.offset;
    key[1][0] ^= first_1.low;
    key[1][1] ^= second_0.high;
    key[2][1] ^= second_0.low;
    for (int round = 0; round < 10; ++round) {
      for (int word = 0; word < 2; ++word) {
        for (int lane = 0; lane < 4; ++lane) key_[round][word][lane] = key[round][word];
      }
    }
#endif
  }

  // Number of elements, of `count` from `first`, with the same upper 32 bits as `first`.
  static int64_t reach(int64_t first, int64_t count) {
    const int64_t left = int64_t{0x100000000} - (first & 0xFFFFFFFF);
    return count < left ? count : left;
  }

  // words[i][lane] = word i of element first + offset[lane]. Offsets, because the caller stores
  // them as 32-bit vectors: GCC would store 64-bit elements one at a time, and the vector load
  // would wait for the stores.
  inline __attribute__((always_inline)) void block(int64_t first, const int32_t* offset,
                                                   uint32_t (&words)[4][kPhiloxLanes]) const {
#if defined(__AVX2__)
    const __m256i multiplier0 = _mm256_set1_epi64x(kMultiplier0);
    const __m256i multiplier1 = _mm256_set1_epi64x(kMultiplier1);
    const auto key = [&](int round, int word) {
      return _mm256_load_si256(reinterpret_cast<const __m256i*>(key_[round][word]));
    };
    const auto high_xor = [](__m256i product, __m256i mask) {
      return _mm256_xor_si256(_mm256_srli_epi64(product, 32), mask);
    };
    __m256i c0[2], c1[2], c2[2], c3[2];
    for (int half = 0; half < 2; ++half) {
      const __m256i e = _mm256_add_epi64(_mm256_set1_epi64x(first),
                                         _mm256_cvtepi32_epi64(_mm_loadu_si128(
                                             reinterpret_cast<const __m128i*>(offset + 4 * half))));
      const __m256i first_0 = _mm256_mul_epu32(e, multiplier0);
      const __m256i second_1 = _mm256_mul_epu32(high_xor(first_0, key(0, 1)), multiplier1);
      const __m256i third_0 = _mm256_mul_epu32(high_xor(second_1, key(1, 0)), multiplier0);
      const __m256i third_1 = _mm256_mul_epu32(_mm256_xor_si256(first_0, key(1, 1)), multiplier1);
      c0[half] = _mm256_xor_si256(high_xor(third_1, second_1), key(2, 0));
      c1[half] = third_1;
      c2[half] = high_xor(third_0, key(2, 1));
      c3[half] = third_0;
    }
    for (int round = 3; round < 10; ++round) {
      for (int half = 0; half < 2; ++half) {
        const __m256i p0 = _mm256_mul_epu32(c0[half], multiplier0);
        const __m256i p1 = _mm256_mul_epu32(c2[half], multiplier1);
        c0[half] = _mm256_xor_si256(high_xor(p1, c1[half]), key(round, 0));
        c2[half] = _mm256_xor_si256(high_xor(p0, c3[half]), key(round, 1));
        c1[half] = p1;
        c3[half] = p0;
      }
    }
    const auto store_low_halves = [](const __m256i(&c)[2], uint32_t* out) {
      const __m256 low =
          _mm256_shuffle_ps(_mm256_castsi256_ps(c[0]), _mm256_castsi256_ps(c[1]), 0x88);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                          _mm256_permute4x64_epi64(_mm256_castps_si256(low), 0xD8));
    };
    store_low_halves(c0, words[0]);
    store_low_halves(c1, words[1]);
    store_low_halves(c2, words[2]);
    store_low_halves(c3, words[3]);
#else
    for (int64_t lane = 0; lane < kPhiloxLanes; ++lane) {
      const Philox4 w = call_.words(stream_, first + offset[lane], draw_);
      words[0][lane] = w.w0;
      words[1][lane] = w.w1;
      words[2][lane] = w.w2;
      words[3][lane] = w.w3;
    }
#endif
  }

 private:
  PhiloxCall call_;
  Stream stream_;
  uint32_t draw_;
#if defined(__AVX2__)
  alignas(32) uint64_t key_[10][2][4];
#endif
};

// The words of neighbors that share a block, four or two: out[4 lane + j] = words[j][lane].
constexpr int32_t kEveryFourth[kPhiloxLanes] = {0, 4, 8, 12, 16, 20, 24, 28};
constexpr int32_t kEverySecond[kPhiloxLanes] = {0, 2, 4, 6, 8, 10, 12, 14};
inline __attribute__((always_inline)) void interleave(const uint32_t (&words)[4][kPhiloxLanes],
                                                      uint32_t* out) {
#if defined(__AVX2__)
  const auto load = [&](int j) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words[j]));
  };
  const __m256i w0 = load(0), w1 = load(1), w2 = load(2), w3 = load(3);
  const __m256i low01 = _mm256_unpacklo_epi32(w0, w1), high01 = _mm256_unpackhi_epi32(w0, w1);
  const __m256i low23 = _mm256_unpacklo_epi32(w2, w3), high23 = _mm256_unpackhi_epi32(w2, w3);
  const __m256i lanes04 = _mm256_unpacklo_epi64(low01, low23);
  const __m256i lanes15 = _mm256_unpackhi_epi64(low01, low23);
  const __m256i lanes26 = _mm256_unpacklo_epi64(high01, high23);
  const __m256i lanes37 = _mm256_unpackhi_epi64(high01, high23);
  const auto store = [&](int i, __m256i v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 8 * i), v);
  };
  store(0, _mm256_permute2x128_si256(lanes04, lanes15, 0x20));
  store(1, _mm256_permute2x128_si256(lanes26, lanes37, 0x20));
  store(2, _mm256_permute2x128_si256(lanes04, lanes15, 0x31));
  store(3, _mm256_permute2x128_si256(lanes26, lanes37, 0x31));
#else
  for (int64_t lane = 0; lane < kPhiloxLanes; ++lane) {
    for (int64_t j = 0; j < 4; ++j) out[4 * lane + j] = words[j][lane];
  }
#endif
}

// The same for pairs: out[2 lane] = even[lane], out[2 lane + 1] = odd[lane].
inline __attribute__((always_inline)) void interleave_pairs(const uint32_t (&even)[kPhiloxLanes],
                                                            const uint32_t (&odd)[kPhiloxLanes],
                                                            uint32_t* out) {
#if defined(__AVX2__)
  const __m256i e = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(even));
  const __m256i o = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(odd));
  const __m256i low = _mm256_unpacklo_epi32(e, o), high = _mm256_unpackhi_epi32(e, o);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permute2x128_si256(low, high, 0x20));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + kPhiloxLanes),
                      _mm256_permute2x128_si256(low, high, 0x31));
#else
  for (int64_t lane = 0; lane < kPhiloxLanes; ++lane) {
    out[2 * lane] = even[lane];
    out[2 * lane + 1] = odd[lane];
  }
#endif
}

}  // namespace
SPROUT_KERNEL_NAMESPACE_END
