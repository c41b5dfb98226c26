// gaussian_mixup on CPU: runs the kernel of the best instruction set over threads.
#include "../gaussian_mixup_call.h"

#include "../entry.h"
#include "gaussian_mixup_kernel.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace sprout_fast {
namespace {

// Requests huge pages for memory that is about to be written for the first time, where page faults
// of 4 KiB each would cost more than the arithmetic. That is the case from 32 MiB on, where glibc's
// malloc returns memory to the system on every free; smaller blocks have mostly been written
// before.
void advise_large_pages([[maybe_unused]] const Tensor& out) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = 2 << 20, kFromSystem = 32 << 20;
  const uintptr_t bytes = out.numel() * out.element_size();
  if (bytes < kFromSystem) return;
  const uintptr_t data = reinterpret_cast<uintptr_t>(out.mutable_data_ptr());
  const uintptr_t begin = (data + kPage - 1) / kPage * kPage, end = (data + bytes) / kPage * kPage;
  // Only advice: nothing is lost if it is refused.
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

Tensor gaussian_mixup_cpu(const GaussianMixupCall& call) {
  const GaussianMixupArgs& args = call.args;
  const int64_t chunks = args.batch * mixup_chunks_per_image(args.height * args.width);
  advise_large_pages(call.out);
  const auto kernel = SPROUT_BEST_KERNEL(gaussian_mixup_chunks);
  torch::stable::parallel_for(0, chunks, 4,
                              [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
  return call.out;
}

Tensor gaussian_mixup_backward_cpu(const GaussianMixupBackwardCall& call) {
  advise_large_pages(call.grad_images);
  const auto kernel = SPROUT_BEST_KERNEL(gaussian_mixup_backward_images);
  torch::stable::parallel_for(0, call.args.batch, 1,
                              [&](int64_t begin, int64_t end) { kernel(call.args, begin, end); });
  return call.grad_images;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CPU, m) {
  m.impl("gaussian_mixup", SPROUT_ENTRY(prepare_gaussian_mixup, gaussian_mixup_cpu));
  m.impl("gaussian_mixup_backward",
         SPROUT_ENTRY(prepare_gaussian_mixup_backward, gaussian_mixup_backward_cpu));
}

}  // namespace sprout_fast
