// Argument checks, whose messages name the op, the argument, what is expected and what was got.
#pragma once

#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "../common/dtype.h"
#include "tensor.h"

namespace sprout_fast {

// Throws an error that Python sees as a RuntimeError: "sprout_fast::<op>: <argument> must be <what
// is expected>, got <what was got>".
#define SPROUT_CHECK(condition, op, ...)                    \
  do {                                                      \
    if (!(condition)) ::sprout_fast::fail(op, __VA_ARGS__); \
  } while (false)

template <typename... Parts>
[[noreturn]] void fail(const char* op, const Parts&... parts) {
  std::ostringstream message;
  message << "sprout_fast::" << op << ": ";
  ((message << parts), ...);
  throw std::runtime_error(message.str());
}

inline const char* dtype_name(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Byte: return "uint8";
    case ScalarType::Half: return "float16";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::Int: return "int32";
    case ScalarType::Long: return "int64";
    case ScalarType::Bool: return "bool";
    default: return "another dtype";
  }
}

inline bool is_floating(ScalarType t) {
  return t == ScalarType::Float || t == ScalarType::Double || t == ScalarType::Half ||
         t == ScalarType::BFloat16;
}

// For dtypes that have passed the checks.
inline Dtype to_dtype(ScalarType t) {
  switch (t) {
    case ScalarType::Byte: return Dtype::kUInt8;
    case ScalarType::Half: return Dtype::kFloat16;
    case ScalarType::BFloat16: return Dtype::kBFloat16;
    case ScalarType::Double: return Dtype::kFloat64;
    default: return Dtype::kFloat32;
  }
}

// E.g. "float32 [2, 3] on cpu". The dispatcher turns Python's None into an undefined tensor.
inline std::string describe(const Tensor& t) {
  if (!t.defined()) return "None";
  std::ostringstream text;
  text << dtype_name(t.scalar_type()) << " [";
  for (int64_t i = 0; i < t.dim(); ++i) text << (i ? ", " : "") << t.size(i);
  text << "] on " << (t.is_cuda() ? "cuda:" : "cpu");
  if (t.is_cuda()) text << static_cast<int>(t.get_device_index());
  return text.str();
}

// Checks that a tensor has exactly this dtype and shape and is on the device of `like`.
inline void check_tensor(const char* op, const char* name, const Tensor& t, ScalarType dtype,
                         Shape shape, const char* takes, const Tensor& like) {
  bool fits = t.defined() && t.scalar_type() == dtype &&
              t.dim() == static_cast<int64_t>(shape.size()) && t.device() == like.device();
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = t.size(i) == shape[i];
  SPROUT_CHECK(fits, op, name, " must be ", takes, " on the device of the first argument (",
               describe(like), "), got ", describe(t));
}

inline void check_rng_state(const char* op, const Tensor& rng_state, const Tensor& like) {
  check_tensor(op, "rng_state", rng_state, ScalarType::Long, {3},
               "int64 [3] = (seed, offset, first_row)", like);
}

// Checks a tensor that an op writes to, dense so that it is written in place.
inline void check_state(const char* op, const char* name, const Tensor& t, ScalarType dtype,
                        Shape shape, const char* takes, const Tensor& like) {
  check_tensor(op, name, t, dtype, shape, takes, like);
  SPROUT_CHECK(t.is_contiguous(), op, name, " must be contiguous, got ", describe(t));
}

// A random state that an op advances, and the first row, which it does not change.
inline void check_rng(const char* op, const Tensor& rng, const Tensor& first_row,
                      const Tensor& like) {
  check_state(op, "rng", rng, ScalarType::Long, {2}, "int64 [2] = (seed, offset)", like);
  check_tensor(op, "first_row", first_row, ScalarType::Long, {1}, "int64 [1]", like);
}

// Checks that `lam` is float32 [batch] or [1]. check_lam_values checks its values on CPU; on CUDA,
// where that would stall the stream, kernels make the rows concerned NaN.
inline void check_lam(const char* op, const Tensor& lam, int64_t batch, const Tensor& like) {
  const bool fits = lam.scalar_type() == ScalarType::Float && lam.dim() == 1 &&
                    (lam.size(0) == batch || lam.size(0) == 1) && lam.device() == like.device();
  SPROUT_CHECK(fits, op, "lam must be float32 [", batch, "] or [1] on the device of the first ",
               "argument (", describe(like), "), got ", describe(lam));
}

template <typename Value, typename Valid>
void check_values(const char* op, const char* name, const Tensor& contiguous, const char* takes,
                  Valid valid) {
  const Value* values = static_cast<const Value*>(contiguous.const_data_ptr());
  for (int64_t i = 0, n = contiguous.numel(); i < n; ++i) {
    SPROUT_CHECK(valid(values[i]), op, name, " must be ", takes, ", got ", values[i], " at index ",
                 i);
  }
}

inline void check_lam_values(const char* op, const Tensor& lam) {
  check_values<float>(op, "lam", lam, "in [0, 1]", [](float v) { return v >= 0.0f && v <= 1.0f; });
}

inline void check_index_values(const char* op, const char* name, const Tensor& index, int64_t end) {
  const std::string takes = "in [0, " + std::to_string(end) + ")";
  check_values<int64_t>(op, name, index, takes.c_str(),
                        [end](int64_t v) { return v >= 0 && v < end; });
}

template <typename T>
const T* data_or_null(const std::optional<Tensor>& t) {
  return t ? static_cast<const T*>(t->const_data_ptr()) : nullptr;
}

}  // namespace sprout_fast
