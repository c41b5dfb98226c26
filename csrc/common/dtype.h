// Element types for kernels, which do not depend on torch.
#pragma once

#include <cstdint>
#include <cstring>

#include "macros.h"

namespace sprout_fast {

enum class Dtype : int32_t { kUInt8, kFloat16, kBFloat16, kFloat32, kFloat64 };

#if !defined(__CUDACC__)
// 16-bit types of the host. _Float16 converts with F16C if the compiler may use it.
using float16 = _Float16;

struct bfloat16 {
  uint16_t bits;
  bfloat16() = default;
  // Rounds to nearest even. A NaN stays a NaN and keeps its sign.
  explicit bfloat16(float value) {
    uint32_t u;
    memcpy(&u, &value, sizeof u);
    const uint32_t rounded = u + 0x7FFFu + ((u >> 16) & 1u);
    bits = static_cast<uint16_t>((value == value ? rounded : (u | 0x00400000u)) >> 16);
  }
  explicit bfloat16(double value) : bfloat16(static_cast<float>(value)) {}
  operator float() const {
    const uint32_t u = static_cast<uint32_t>(bits) << 16;
    float value;
    memcpy(&value, &u, sizeof value);
    return value;
  }
};

// Calls body(T{}) with the element type of `dtype`.
template <typename Body>
inline __attribute__((always_inline)) void with_floating_type(Dtype dtype, Body body) {
  switch (dtype) {
    case Dtype::kFloat16: return body(float16());
    case Dtype::kBFloat16: return body(bfloat16());
    case Dtype::kFloat64: return body(double());
    default: return body(float());
  }
}
#endif

}  // namespace sprout_fast
