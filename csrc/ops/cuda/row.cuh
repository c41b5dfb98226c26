// How rows of neighbouring elements lie over threads.
#pragma once

#include "../../common/device_types.h"
#include "grid.cuh"

namespace sprout_fast {

// Neighbours in a thread's hands: 128 bits of E, and one of Philox's groups of four at least.
template <typename E>
constexpr int kPacket = sizeof(E) < 4 ? 16 / sizeof(E) : 4;

// A row's elements in packets of N that begin at multiples of N not of the row but of the whole
// tensor, counted from `first_element`: so a packet holds whole Philox groups and, where that count
// agrees with the addresses, whole 128-bit words, wherever in them the row begins.
template <int N>
struct RowPackets {
  int skip;       // elements of packet 0 that lie before the row
  int64_t count;  // packets that hold elements of the row

  __device__ __forceinline__ RowPackets(int64_t first_element, int64_t elements)
      : skip(static_cast<int>(first_element & (N - 1))), count((elements + skip + N - 1) / N) {}
  // The packet's first element, counted from the row's; negative for packet 0 with a skip.
  __device__ __forceinline__ int64_t begin(int64_t packet) const { return packet * N - skip; }
};

// Packets that a row of a dense matrix takes at most.
constexpr int64_t packets_a_row(int64_t elements, int n) {
  return elements % n == 0 ? elements / n : ceil_div(elements + n - 1, n);
}

// Blocks for rows of so many packets: x is a row's threads, a power of two up to `max_lanes`; y is
// rows, enough for `threads` a block.
inline dim3 row_block(int64_t packets, int64_t max_lanes, int64_t threads) {
  int64_t lanes = 1;
  while (lanes < std::min(packets, max_lanes)) lanes *= 2;
  return dim3(static_cast<unsigned>(lanes),
              static_cast<unsigned>(std::max(threads / lanes, int64_t{1})));
}

}  // namespace sprout_fast
