// Distribution of the elements of a row over threads.
#pragma once

#include "../../common/device_types.h"
#include "grid.cuh"

namespace sprout_fast {

// Consecutive elements per thread: 128 bits of E, and at least one Philox group of four.
template <typename E>
constexpr int kPacket = sizeof(E) < 4 ? 16 / sizeof(E) : 4;

// The elements of a row in packets of N. Packets begin at multiples of N of the whole tensor,
// counted from `first_element`, and not of the row: a packet then holds whole Philox groups and, if
// the count agrees with the addresses, whole 128-bit words, wherever the row begins in them.
template <int N>
struct RowPackets {
  int skip;       // elements of packet 0 before the row
  int64_t count;  // packets that hold elements of the row

  __device__ __forceinline__ RowPackets(int64_t first_element, int64_t elements)
      : skip(static_cast<int>(first_element & (N - 1))), count((elements + skip + N - 1) / N) {}
  // The first element of the packet, relative to the row; negative for packet 0 if it has a skip.
  __device__ __forceinline__ int64_t begin(int64_t packet) const { return packet * N - skip; }
};

// Maximum number of packets per row of a dense matrix.
constexpr int64_t packets_per_row(int64_t elements, int n) {
  return elements % n == 0 ? elements / n : ceil_div(elements + n - 1, n);
}

// Block size for rows of `packets` packets: x is the threads per row, a power of two up to
// `max_lanes`; y is the rows per block, enough for `threads` threads.
inline dim3 row_block(int64_t packets, int64_t max_lanes, int64_t threads) {
  int64_t lanes = 1;
  while (lanes < std::min(packets, max_lanes)) lanes *= 2;
  return dim3(static_cast<unsigned>(lanes),
              static_cast<unsigned>(std::max(threads / lanes, int64_t{1})));
}

}  // namespace sprout_fast
