// The function that the dispatcher calls for an op on one device, derived from the op's
// `prepare_<op>`, so that no device repeats the op's arguments.
#pragma once

#include <torch/csrc/stable/library.h>

#include <type_traits>

#include "tensor.h"

namespace sprout_fast {

// The tensor whose device every other tensor of the call must share.
template <typename First, typename... Rest>
const Tensor& first_tensor(const First& first, const Rest&... rest) {
  if constexpr (std::is_same_v<First, Tensor>) {
    return first;
  } else {
    return first_tensor(rest...);
  }
}

// Entry<prepare, run>::call(arguments...) is run(prepare(arguments...)). A Context, if any, is
// constructed from the first tensor, lives for the call, and is passed to `run` as well.
template <auto prepare, auto run, typename Context = void, typename Prepare = decltype(prepare)>
struct Entry;

template <auto prepare, auto run, typename Context, typename Call, typename... Arguments>
struct Entry<prepare, run, Context, Call (*)(Arguments...)> {
  static auto call(Arguments... arguments) {
    const Call call = prepare(arguments...);
    if constexpr (std::is_void_v<Context>) {
      return run(call);
    } else {
      return run(call, Context(first_tensor(arguments...)));
    }
  }
};

// For m.impl: SPROUT_ENTRY(prepare, run) on CPU, SPROUT_ENTRY(prepare, run, Launch) on CUDA.
#define SPROUT_ENTRY(...) TORCH_BOX((&::sprout_fast::Entry<__VA_ARGS__>::call))

}  // namespace sprout_fast
