// Arrays that begin a cache line. Of vectors that begin elsewhere, half or all lie in two lines,
// and take two accesses.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace sprout_fast {

constexpr std::align_val_t kCacheLine{64};

struct DeleteAligned {
  void operator()(void* p) const { ::operator delete(p, kCacheLine); }
};
template <typename T>
using AlignedArray = std::unique_ptr<T[], DeleteAligned>;

template <typename T>
AlignedArray<T> aligned_zeros(int64_t count) {
  void* memory = ::operator new(static_cast<size_t>(count) * sizeof(T), kCacheLine);
  T* numbers = static_cast<T*>(memory);
  std::uninitialized_fill_n(numbers, count, T(0));
  return AlignedArray<T>(numbers);
}

}  // namespace sprout_fast
