// pgd_step_ on CPU, one run of the innermost dimension at a time.
#include "pgd_step_kernel.h"

SPROUT_KERNEL_NAMESPACE_BEGIN
namespace {

template <typename T, typename Grad>
void step_elements(const PgdStepArgs& args, int64_t begin, int64_t end) {
  const T step = static_cast<T>(args.step), eps = rounded_down<T>(args.eps);
  const T lower = static_cast<T>(args.lower), upper = static_cast<T>(args.upper);
  const int last = args.dims - 1;
  const int64_t inner = args.size[last];
  const int64_t s0 = args.stride[0][last], s1 = args.stride[1][last], s2 = args.stride[2][last];
  for (int64_t i = begin; i < end;) {
    // Where the run begins, and how much of it is in [begin, end).
    int64_t offset[3], rest = i / inner;
    const int64_t first = i % inner;
    for (int t = 0; t < 3; ++t) offset[t] = first * args.stride[t][last];
    for (int d = last - 1; d >= 0; --d) {
      const int64_t index = rest % args.size[d];
      rest /= args.size[d];
      for (int t = 0; t < 3; ++t) offset[t] += index * args.stride[t][d];
    }
    const int64_t count = inner - first < end - i ? inner - first : end - i;
    T* x_adv = static_cast<T*>(args.x_adv) + offset[0];
    const Grad* grad = static_cast<const Grad*>(args.grad) + offset[1];
    const T* x = static_cast<const T*>(args.x) + offset[2];
    if (s0 == 1 && s1 == 1 && s2 == 1) {
      for (int64_t j = 0; j < count; ++j) {
        x_adv[j] = linf_step(x_adv[j], grad[j], x[j], step, eps, lower, upper);
      }
    } else {
      for (int64_t j = 0; j < count; ++j) {
        x_adv[j * s0] = linf_step(x_adv[j * s0], grad[j * s1], x[j * s2], step, eps, lower, upper);
      }
    }
    i += count;
  }
}

}  // namespace

void pgd_step_elements(const PgdStepArgs& args, int64_t begin, int64_t end) {
  with_floating_type(args.grad_dtype, [&](auto grad) {
    if (args.dtype == Dtype::kFloat64) {
      step_elements<double, decltype(grad)>(args, begin, end);
    } else {
      step_elements<float, decltype(grad)>(args, begin, end);
    }
  });
}

SPROUT_KERNEL_NAMESPACE_END
