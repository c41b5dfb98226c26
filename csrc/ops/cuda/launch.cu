#include "launch.h"

#include <atomic>
#include <string>

#include "../device_support.h"

namespace sprout_fast {

void check_device(int device) {
  static std::atomic<uint64_t> checked{0};
  const uint64_t bit = uint64_t{1} << (device & 63);
  if (checked.load(std::memory_order_relaxed) & bit) return;
  int driver = 0;
  cudaDriverGetVersion(&driver);
  std::string problem = driver_problem(driver, CUDART_VERSION);
  if (problem.empty()) {
    cudaDeviceProp properties;
    STD_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
    problem = device_problem(SPROUT_CUDA_ARCHS, 10 * properties.major + properties.minor,
                             properties.name);
  }
  STD_TORCH_CHECK(problem.empty(), problem);
  checked.fetch_or(bit, std::memory_order_relaxed);
}

}  // namespace sprout_fast
