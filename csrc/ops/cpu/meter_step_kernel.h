#pragma once

#include "../meter_step_args.h"
#include "isa.h"

namespace sprout_fast {

// Scratch per thread, in doubles: a row in whole vectors.
inline int64_t meter_step_scratch(int64_t classes) { return (classes + 31) / 32 * 32; }

}  // namespace sprout_fast

// Adds the hits of rows [begin, end) to `hits`.
SPROUT_DECLARE_KERNEL(meter_step_rows, const MeterStepArgs& args, int64_t begin, int64_t end,
                      void* scratch, int64_t* hits)
