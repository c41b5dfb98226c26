// What dirichlet's checks hand to its kernels, on every device.
#pragma once

#include <cstdint>

#include "../common/dtype.h"

namespace sprout_fast {

// Backward needs log G_k at each entry. It is log z_k + log_total, log_total = log sum_k G_k: so z,
// which the caller holds anyway, and one number a row are all that is kept. (Keeping log G would be
// another tensor of z's size; drawing again would cost the sampler a second time.) An entry whose z
// is 0 has lost its log G, and needs none: entries further than kNegligibleNats under the total are
// set to 0 and have no gradient (gamma.h says what that loses).
struct DirichletArgs {
  Dtype dtype;                // float32 or float64, of every floating tensor
  const void* concentration;  // [rows, classes]
  const int64_t* rng_state;   // (seed, offset, first_row)
  void* z;                    // [rows, classes]
  void* log_total;            // [rows]
  int64_t rows, classes, elements_a_row;
};

// dL/da_k = z_k (g_k - sum_j g_j z_j) dlog G_k/da_k, g = grad_z.
struct DirichletBackwardArgs {
  Dtype dtype;
  const void *grad_z, *concentration, *z;  // [rows, classes]
  const void* log_total;                   // [rows]
  void* grad_concentration;                // [rows, classes]
  int64_t rows, classes;
};

}  // namespace sprout_fast
