// gaussian_mixup on CPU: from checked tensors to the kernel of the processor's instruction set.
#include "../gaussian_mixup_call.h"

#include <torch/csrc/stable/library.h>

#include "gaussian_mixup_kernel.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace sprout_fast {
namespace {

// Asks for large pages for memory that is about to be written for the first time, whose page
// faults, 4 KiB at a time, would cost more than the arithmetic. That is memory from 32 MiB on:
// glibc's malloc gives it back to the system with every free; below, it mostly hands out what was
// written before.
void advise_large_pages([[maybe_unused]] const Tensor& out) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = 2 << 20, kFromSystem = 32 << 20;
  const uintptr_t bytes = out.numel() * out.element_size();
  if (bytes < kFromSystem) return;
  const uintptr_t data = reinterpret_cast<uintptr_t>(out.mutable_data_ptr());
  const uintptr_t begin = (data + kPage - 1) / kPage * kPage, end = (data + bytes) / kPage * kPage;
  // Advice only: where it is refused, nothing is lost.
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

Tensor gaussian_mixup_cpu(const Tensor& images, const std::optional<Tensor>& partner,
                          const std::optional<Tensor>& lam, const Tensor& rng_state,
                          const std::vector<double>& sigma, const std::vector<double>& mean,
                          const std::vector<double>& std, const std::string& noise,
                          ScalarType dtype) {
  const GaussianMixupCall call =
      prepare_gaussian_mixup(images, partner, lam, rng_state, sigma, mean, std, noise, dtype);
  const GaussianMixupArgs& args = call.args;
  const int64_t chunks = args.batch * mixup_chunks_an_image(args.height * args.width);
  advise_large_pages(call.out);
  const auto kernel = SPROUT_BEST_KERNEL(gaussian_mixup_chunks);
  torch::stable::parallel_for(0, chunks, 4,
                              [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
  return call.out;
}

Tensor gaussian_mixup_backward_cpu(const Tensor& grad, const std::optional<Tensor>& partner,
                                   const std::optional<Tensor>& lam, const std::vector<double>& std,
                                   ScalarType dtype) {
  const GaussianMixupBackwardCall call =
      prepare_gaussian_mixup_backward(grad, partner, lam, std, dtype);
  const auto kernel = SPROUT_BEST_KERNEL(gaussian_mixup_backward_images);
  torch::stable::parallel_for(0, call.args.batch, 1,
                              [&](int64_t begin, int64_t end) { kernel(call.args, begin, end); });
  return call.grad_images;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CPU, m) {
  m.impl("gaussian_mixup", TORCH_BOX(&gaussian_mixup_cpu));
  m.impl("gaussian_mixup_backward", TORCH_BOX(&gaussian_mixup_backward_cpu));
}

}  // namespace sprout_fast
