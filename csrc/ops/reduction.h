// How a loss over rows is reduced.
#pragma once

#include <cstdint>

namespace sprout_fast {

enum class Reduction : int32_t { kNone, kMean, kSum };

}  // namespace sprout_fast
