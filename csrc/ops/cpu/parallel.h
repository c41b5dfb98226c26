// Dynamic scheduling over torch's threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace sprout_fast {

// Like torch::stable::parallel_for(0, count, grain, ...), but each thread fetches the next `grain`
// items when it is done with the previous ones, so that a thread on a busy core, or with slower
// items, does not delay the others. Each thread calls make_body() once and then its own body(begin,
// end).
template <typename MakeBody>
void parallel_in_turn(int64_t count, int64_t grain, MakeBody make_body) {
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, count, grain, [&](int64_t, int64_t) {
    auto body = make_body();
    for (int64_t begin; (begin = next.fetch_add(grain, std::memory_order_relaxed)) < count;) {
      body(begin, std::min(begin + grain, count));
    }
  });
}

}  // namespace sprout_fast
