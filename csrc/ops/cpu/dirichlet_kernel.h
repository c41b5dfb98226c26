#pragma once

#include "../dirichlet_args.h"
#include "isa.h"

namespace sprout_fast {

// Scratch per thread, in elements of the dtype: a row of log variates, padded to whole vectors.
inline int64_t dirichlet_scratch(int64_t classes) { return (classes + 15) / 16 * 16; }

}  // namespace sprout_fast

// Rows [begin, end). `scratch` is of the tensors' dtype.
SPROUT_DECLARE_KERNEL(dirichlet_rows, const DirichletArgs& args, int64_t begin, int64_t end,
                      void* scratch)
SPROUT_DECLARE_KERNEL(dirichlet_backward_rows, const DirichletBackwardArgs& args, int64_t begin,
                      int64_t end)
