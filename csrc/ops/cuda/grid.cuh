// Launch sizes. The functions next to each kernel that compute them are host code outside the .cu
// files, so that the tests' SIMT harness launches the same grids.
#pragma once

#include <vector_types.h>

#include <algorithm>
#include <cstdint>

namespace sprout_fast {

constexpr int64_t kMaxGridY = 65535;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline dim3 grid_of(int64_t x, int64_t y = 1) {
  return dim3(static_cast<unsigned>(x), static_cast<unsigned>(std::min(y, kMaxGridY)));
}

}  // namespace sprout_fast
