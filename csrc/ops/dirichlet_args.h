// Arguments of dirichlet's kernels, the same on every device.
#pragma once

#include <cstdint>

#include "../common/dtype.h"

namespace sprout_fast {

// The backward pass needs log G_k = log z_k + log_total, with log_total = log sum_k G_k. So only z,
// which the caller keeps anyway, and one number per row are saved; log G itself would be another
// tensor of z's size, and drawing again would run the sampler twice. Entries more than
// kNegligibleNats below the total are set to 0 and have no gradient (gamma.h states what that
// loses), so their log G is not needed.
struct DirichletArgs {
  Dtype dtype;                // float32 or float64, of every floating tensor
  const void* concentration;  // [rows, classes]
  const int64_t* rng_state;   // (seed, offset, first_row)
  void* z;                    // [rows, classes]
  void* log_total;            // [rows]
  int64_t rows, classes, elements_per_row;
};

// dL/da_k = z_k (g_k - sum_j g_j z_j) dlog G_k/da_k with g = grad_z.
struct DirichletBackwardArgs {
  Dtype dtype;
  const void *grad_z, *concentration, *z;  // [rows, classes]
  const void* log_total;                   // [rows]
  void* grad_concentration;                // [rows, classes]
  int64_t rows, classes;
};

}  // namespace sprout_fast
