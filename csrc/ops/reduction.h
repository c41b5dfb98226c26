// Reduction of the losses of rows.
#pragma once

#include <cstdint>

namespace sprout_fast {

enum class Reduction : int32_t { kNone, kMean, kSum };

}  // namespace sprout_fast
