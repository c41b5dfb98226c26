// meter_step_ on CPU: the first class with a row's largest logit. A NaN counts as the largest, as
// in torch.argmax.
#include "meter_step_kernel.h"

#include "row.h"

SPROUT_KERNEL_NAMESPACE_BEGIN

void meter_step_rows(const MeterStepArgs& args, int64_t begin, int64_t end, void* scratch,
                     int64_t* hits) {
  const int64_t K = args.classes, padded = padded_row(K);
  with_floating_type(args.dtype, [&](auto logit) {
    using Logit = decltype(logit);
    using T = decltype(logit * 1.0f);
    T* values = static_cast<T*>(scratch);
    for (int64_t row = begin; row < end; ++row) {
      const Logit* logits = static_cast<const Logit*>(args.logits) + row * K;
      for (int64_t k = 0; k < K; ++k) values[k] = static_cast<T>(logits[k]);
      for (int64_t k = K; k < padded; ++k) values[k] = -std::numeric_limits<T>::infinity();
      const T top = row_maximum(values, padded);
      const T nans = row_sum<T>(padded, [&](int64_t k) { return T(values[k] != values[k]); });
      int64_t predicted = 0;
      if (nans == T(0)) {
        while (values[predicted] != top) ++predicted;
      } else {
        while (values[predicted] == values[predicted]) ++predicted;
      }
      *hits += meter_hit(args, row, predicted);
    }
  });
}

SPROUT_KERNEL_NAMESPACE_END
