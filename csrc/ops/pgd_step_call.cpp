// Schema and argument checks of pgd_step_.
#include "pgd_step_call.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>

namespace sprout_fast {
namespace {

constexpr const char* kOp = "pgd_step_";

void check_like_x_adv(const char* name, const Tensor& t, const Tensor& x_adv, bool fits,
                      const char* takes) {
  bool same = t.defined() && t.dim() == x_adv.dim() && t.device() == x_adv.device();
  for (int64_t i = 0; same && i < t.dim(); ++i) same = t.size(i) == x_adv.size(i);
  SPROUT_CHECK(fits && same, kOp, name, " must be ", takes, " of x_adv's shape on its device (",
               describe(x_adv), "), got ", describe(t));
}

// Sets dims, size and stride of args.
void set_layout(PgdStepArgs& args, const Tensor* const tensors[3]) {
  const Tensor& x_adv = *tensors[0];
  std::vector<int64_t> order;
  for (int64_t i = 0; i < x_adv.dim(); ++i) {
    if (x_adv.size(i) != 1) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return x_adv.stride(a) > x_adv.stride(b); });
  // Each stride must exceed the reach of the inner dimensions, or two indices could share an
  // address.
  int64_t reach = 0;
  for (auto i = order.rbegin(); i != order.rend(); ++i) {
    SPROUT_CHECK(x_adv.stride(*i) > reach, kOp,
                 "x_adv must not overlap itself, as an expanded tensor does (clone it first), got "
                 "stride ",
                 x_adv.stride(*i), " in dimension ", *i, " of ", describe(x_adv));
    reach += (x_adv.size(*i) - 1) * x_adv.stride(*i);
  }
  int n = 0;
  for (const int64_t i : order) {
    bool merges = n > 0;
    for (int t = 0; merges && t < 3; ++t) {
      merges = args.stride[t][n - 1] == x_adv.size(i) * tensors[t]->stride(i);
    }
    if (!merges) {
      SPROUT_CHECK(n < kMaxPgdDims, kOp, "x_adv must have at most ", kMaxPgdDims,
                   " dimensions that do not merge, got ", describe(x_adv));
      args.size[n++] = 1;
    }
    args.size[n - 1] *= x_adv.size(i);
    for (int t = 0; t < 3; ++t) args.stride[t][n - 1] = tensors[t]->stride(i);
  }
  if (n == 0) {  // one element
    args.size[n++] = 1;
    for (int t = 0; t < 3; ++t) args.stride[t][0] = 1;
  }
  args.dims = n;
}

struct Bytes {
  const char *begin, *end;
};

Bytes bytes_of(const Tensor& t, int64_t element_size) {
  int64_t last = 0;
  for (int64_t i = 0; i < t.dim(); ++i) last += (t.size(i) - 1) * t.stride(i);
  const char* begin = static_cast<const char*>(t.const_data_ptr());
  return {begin, begin + (last + 1) * element_size};
}

int64_t element_size(ScalarType t) {
  return t == ScalarType::Double ? 8 : t == ScalarType::Float ? 4 : 2;
}

// A copy of `t` if it shares memory with x_adv other than element for element, since x_adv is
// written while it is read; else `t`.
Tensor apart(const Tensor& t, const Tensor& x_adv) {
  const int64_t size = element_size(t.scalar_type());
  const Bytes a = bytes_of(t, size), b = bytes_of(x_adv, element_size(x_adv.scalar_type()));
  if (a.end <= b.begin || b.end <= a.begin) return t;
  bool same = a.begin == b.begin && t.scalar_type() == x_adv.scalar_type();
  for (int64_t i = 0; i < t.dim(); ++i) same = same && t.stride(i) == x_adv.stride(i);
  return same ? t : torch::stable::clone(t);
}

}  // namespace

PgdStepCall prepare_pgd_step(const Tensor& x_adv, const Tensor& grad, const Tensor& x, double step,
                             double eps, double lower, double upper) {
  const ScalarType dtype = x_adv.defined() ? x_adv.scalar_type() : ScalarType::Undefined;
  SPROUT_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double, kOp,
               "x_adv must be float32 or float64, got ", describe(x_adv));
  check_like_x_adv("grad", grad, x_adv, grad.defined() && is_floating(grad.scalar_type()),
                   "float64, float32, bfloat16 or float16");
  check_like_x_adv("x", x, x_adv, x.defined() && x.scalar_type() == dtype, "of x_adv's dtype and");
  SPROUT_CHECK(std::isfinite(step) && step >= 0, kOp, "step must be finite and at least 0, got ",
               step);
  SPROUT_CHECK(std::isfinite(eps) && eps >= 0, kOp, "eps must be finite and at least 0, got ", eps);
  SPROUT_CHECK(lower <= upper, kOp, "lower must be at most upper, got ", lower, " and ", upper);
  const bool empty = x_adv.numel() == 0;
  PgdStepCall call{x_adv, empty ? grad : apart(grad, x_adv), empty ? x : apart(x, x_adv), {}};
  PgdStepArgs& args = call.args;
  args.dtype = to_dtype(dtype);
  args.grad_dtype = to_dtype(grad.scalar_type());
  args.x_adv = call.x_adv.mutable_data_ptr();
  args.grad = call.grad.const_data_ptr();
  args.x = call.x.const_data_ptr();
  args.numel = x_adv.numel();
  args.step = step;
  args.eps = eps;
  args.lower = lower;
  args.upper = upper;
  const Tensor* const tensors[3] = {&call.x_adv, &call.grad, &call.x};
  if (!empty) set_layout(args, tensors);
  return call;
}

STABLE_TORCH_LIBRARY_FRAGMENT(sprout_fast, m) {
  // Returns nothing: opcheck and torch.compile reject ops that return an input.
  m.def(
      "pgd_step_(Tensor(a!) x_adv, Tensor grad, Tensor x, float step, float eps, float lower, "
      "float upper) -> ()");
}

}  // namespace sprout_fast
