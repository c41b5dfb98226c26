// Philox for blocks of elements. Included by kernels, in the namespace of their instruction set.
//
// In vectors, because GCC 12's vectorization of the plain loop is three times slower: the 32 x 32
// -> 64 bit product exists for even lanes only, so each Philox block occupies a 64-bit lane, whose
// upper half the next product ignores.
#pragma once

#include "../../common/philox.h"
#include "isa.h"
#include "vector.h"

SPROUT_KERNEL_NAMESPACE_BEGIN
namespace {

// Distances of elements from the first, by lane. In each 128 bits there are four lanes, here called
// positions.
struct LaneOrder {
  alignas(kVectorBytes) uint32_t distance[kLanes];
};
constexpr LaneOrder order_of_fours() {
  LaneOrder order = {};
  for (uint32_t lane = 0; lane < kLanes; ++lane) {
    const uint32_t part = lane / 4, position = lane % 4;
    order.distance[lane] = 4 * (position * (kLanes / 4) + part);
  }
  return order;
}
constexpr LaneOrder order_of_twos() {
  LaneOrder order = {};
  for (uint32_t lane = 0; lane < kLanes; ++lane) {
    const uint32_t part = lane / 4, position = lane % 4;
    order.distance[lane] = 2 * (position / 2 * (kLanes / 2) + 2 * part + position % 2);
  }
  return order;
}

// One draw of one stream, for elements with the same upper 32 bits as `first`. Everything that the
// lanes of a block have in common is computed in advance.
class PhiloxDraw {
 public:
  PhiloxDraw(const PhiloxCall& call, Stream stream, uint32_t draw, int64_t first) {
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
      for (int word = 0; word < 2; ++word) key_[round][word] = Wides() + key[round][word];
    }
  }

  // Number of elements, of `count` from `first`, with the same upper 32 bits as `first`.
  static int64_t reach(int64_t first, int64_t count) {
    const int64_t left = int64_t{0x100000000} - (first & 0xFFFFFFFF);
    return count < left ? count : left;
  }

  // out[i][v] = word i of the elements whose lower 32 bits are in element[v]. A round is a chain of
  // dependent instructions, so only several vectors together keep the processor busy.
  template <int kVectors>
  SPROUT_INLINE void words(const Words (&element)[kVectors], Words (&out)[4][kVectors]) const {
    constexpr int kChains = 2 * kVectors;
    const Wides multiplier0 = Wides() + kMultiplier0, multiplier1 = Wides() + kMultiplier1;
    Wides c0[kChains], c1[kChains], c2[kChains], c3[kChains];
    for (int i = 0; i < kChains; ++i) {
      const Words& some = element[i / 2];
      const Wides e =
          (Wides)(i % 2 == 0 ? interleave_low(some, some) : interleave_high(some, some));
      const Wides first_0 = product_of_lower_halves(e, multiplier0);
      const Wides second_1 = product_of_lower_halves((first_0 >> 32) ^ key_[0][1], multiplier1);
      const Wides third_0 = product_of_lower_halves((second_1 >> 32) ^ key_[1][0], multiplier0);
      const Wides third_1 = product_of_lower_halves(first_0 ^ key_[1][1], multiplier1);
      c0[i] = (third_1 >> 32) ^ (second_1 ^ key_[2][0]);
      c1[i] = third_1;
      c2[i] = (third_0 >> 32) ^ key_[2][1];
      c3[i] = third_0;
    }
#pragma GCC unroll 7
    for (int round = 3; round < 10; ++round) {
#pragma GCC unroll 8
      for (int i = 0; i < kChains; ++i) {
        const Wides p0 = product_of_lower_halves(c0[i], multiplier0);
        const Wides p1 = product_of_lower_halves(c2[i], multiplier1);
        c0[i] = (p1 >> 32) ^ (c1[i] ^ key_[round][0]);
        c2[i] = (p0 >> 32) ^ (c3[i] ^ key_[round][1]);
        c1[i] = p1;
        c3[i] = p0;
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      out[0][v] = lower_halves(c0[2 * v], c0[2 * v + 1]);
      out[1][v] = lower_halves(c1[2 * v], c1[2 * v + 1]);
      out[2][v] = lower_halves(c2[2 * v], c2[2 * v + 1]);
      out[3][v] = lower_halves(c3[2 * v], c3[2 * v + 1]);
    }
  }

  // The blocks of groups of four elements from `first`, which must be a multiple of four, in the
  // order in which transpose_in_lanes of out[0 to 3][v] gives the words of 4 kLanes consecutive
  // elements.
  template <int kVectors>
  SPROUT_INLINE void fours(int64_t first, Words (&out)[4][kVectors]) const {
    static constexpr LaneOrder kOrder = order_of_fours();
    Words element[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      element[v] = load<Words>(kOrder.distance) + static_cast<uint32_t>(first + v * 4 * kLanes);
    }
    words(element, out);
  }

  // The same for pairs: interleave_low and interleave_high of out[i][v] and out[j][v] are in the
  // order of 2 kLanes consecutive elements.
  template <int kVectors>
  SPROUT_INLINE void twos(int64_t first, Words (&out)[4][kVectors]) const {
    static constexpr LaneOrder kOrder = order_of_twos();
    Words element[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      element[v] = load<Words>(kOrder.distance) + static_cast<uint32_t>(first + v * 2 * kLanes);
    }
    words(element, out);
  }

 private:
  Wides key_[10][2];
};

}  // namespace
SPROUT_KERNEL_NAMESPACE_END
