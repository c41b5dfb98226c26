// The device and stream of a launch.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <algorithm>

#include "../check.h"
#include "../entry.h"
#include "grid.cuh"

namespace sprout_fast {

// Raises an error that says how to rebuild if this library's kernels cannot run on the device; it
// asks once per device. Otherwise the first launch would fail with "no kernel image".
void check_device(int device);

// Of the current device.
inline int multiprocessors() {
  int device = 0, count = 0;
  STD_CUDA_CHECK(cudaGetDevice(&device));
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

// The tensor's device, made current as long as this lives, and torch's current stream on it.
struct Launch {
  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream;

  explicit Launch(const Tensor& t) : guard(t.get_device_index()) {
    check_device(t.get_device_index());
    void* current = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &current));
    stream = static_cast<cudaStream_t>(current);
  }
};

}  // namespace sprout_fast
