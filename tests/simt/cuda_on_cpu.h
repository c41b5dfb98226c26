// The subset of CUDA that this project's kernels use, on the CPU. Include this first, then a
// `*_kernel.cuh`; `simt::launch` runs its kernels.
//
// Each CUDA thread is a fiber; blocks run one after another. A seed shuffles the order of blocks
// and the thread that runs next at every switch. A launch throws if it detects threads at different
// barriers, a lane that is named in a mask but does not arrive, or a deadlock; and, if the kernels
// are compiled with -fsanitize=thread (whose calls cuda_on_cpu.cpp implements), data races and
// reads of unwritten shared memory.
//
// Not implemented, because no kernel uses them: atomics but the one below, cooperative groups.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector_types.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <type_traits>

// Defined only now: the CUDA headers above must take their host branch, which gives the types, and
// those of this project their device branch.
#define __CUDACC__ 1
#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __forceinline__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __shared__ static  // blocks run one after another, so one copy serves them all
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
// Dynamic shared memory (csrc/common/macros.h).
#define SPROUT_DYNAMIC_SHARED(name) uint4* const name = ::simt::dynamic_shared()

#define threadIdx (::simt::coordinates.thread)
#define blockIdx (::simt::coordinates.block)
#define blockDim (::simt::coordinates.block_dim)
#define gridDim (::simt::coordinates.grid_dim)

namespace simt {

struct Coordinates {
  uint3 thread, block;
  dim3 block_dim, grid_dim;
};
extern Coordinates coordinates;  // of the running fiber

// Where the source calls a barrier. Not the return address, because compilers duplicate code.
struct Site {
  const char* what;
  const char* file;
  int line;
};

struct Votes {
  int any, all, count;
};
Votes block_barrier(const Site& site, bool predicate);

enum class WarpOp { kSync, kBallot, kShuffle };
// The ballot, or the value of lane `source`, once every lane in `mask` has come.
uint64_t warp_exchange(const Site& site, WarpOp op, uint32_t mask, uint64_t value, int source);
int lane();
uint4* dynamic_shared();
// Not inline: to the kernels' own code, which is searched for data races, it accesses nothing.
unsigned long long add(unsigned long long* p, unsigned long long value);

// <<<grid, block, shared_bytes>>>
struct Config {
  dim3 grid, block;
  int64_t shared_bytes = 0;
};
void run(const Config& config, uint64_t seed, const std::function<void()>& thread_body);

// The kernels that have been launched, as the compiler writes their names.
std::set<std::string>& launched();

// kernel<<<...>>>(args...); throws std::runtime_error for what it finds wrong.
template <auto kernel, typename... Args>
void launch(const Config& config, uint64_t seed, const Args&... args) {
  launched().insert(__PRETTY_FUNCTION__);
  run(config, seed, [&] { kernel(args...); });
}

template <typename T>
T shuffle(const Site& site, uint32_t mask, T value, int source) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8, "one register pair at most");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = warp_exchange(site, WarpOp::kShuffle, mask, bits, source);
  memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace simt

#define SIMT_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(SIMT_CALLER) {
  simt::block_barrier({"__syncthreads", file, line}, false);
}
inline int __syncthreads_or(int predicate, SIMT_CALLER) {
  return simt::block_barrier({"__syncthreads_or", file, line}, predicate != 0).any;
}
inline int __syncthreads_and(int predicate, SIMT_CALLER) {
  return simt::block_barrier({"__syncthreads_and", file, line}, predicate != 0).all;
}
inline int __syncthreads_count(int predicate, SIMT_CALLER) {
  return simt::block_barrier({"__syncthreads_count", file, line}, predicate != 0).count;
}

inline void __syncwarp(uint32_t mask = 0xffffffffu, SIMT_CALLER) {
  simt::warp_exchange({"__syncwarp", file, line}, simt::WarpOp::kSync, mask, 0, 0);
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate, SIMT_CALLER) {
  return static_cast<uint32_t>(simt::warp_exchange({"__ballot_sync", file, line},
                                                   simt::WarpOp::kBallot, mask, predicate != 0, 0));
}
inline int __any_sync(uint32_t mask, int predicate, SIMT_CALLER) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(uint32_t mask, int predicate, SIMT_CALLER) {
  return __ballot_sync(mask, predicate, file, line) == mask;
}

// `width` cuts the warp into segments; a source outside the own segment gives the own value.
template <typename T>
T __shfl_sync(uint32_t mask, T value, int source, int width = 32, SIMT_CALLER) {
  const int segment = simt::lane() & ~(width - 1);
  return simt::shuffle({"__shfl_sync", file, line}, mask, value, segment | (source & (width - 1)));
}
template <typename T>
T __shfl_xor_sync(uint32_t mask, T value, int lane_mask, int width = 32, SIMT_CALLER) {
  const int last = simt::lane() | (width - 1), source = simt::lane() ^ lane_mask;
  return simt::shuffle({"__shfl_xor_sync", file, line}, mask, value,
                       source <= last ? source : simt::lane());
}
template <typename T>
T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32, SIMT_CALLER) {
  const int first = simt::lane() & ~(width - 1), source = simt::lane() - static_cast<int>(delta);
  return simt::shuffle({"__shfl_up_sync", file, line}, mask, value,
                       source >= first ? source : simt::lane());
}
template <typename T>
T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32, SIMT_CALLER) {
  const int last = simt::lane() | (width - 1), source = simt::lane() + static_cast<int>(delta);
  return simt::shuffle({"__shfl_down_sync", file, line}, mask, value,
                       source <= last ? source : simt::lane());
}
#undef SIMT_CALLER

namespace simt {
template <typename To, typename From>
To bits_as(From value) {
  To result;
  static_assert(sizeof result == sizeof value);
  memcpy(&result, &value, sizeof result);
  return result;
}
}  // namespace simt

inline float __int_as_float(int v) { return simt::bits_as<float>(v); }
inline float __uint_as_float(unsigned v) { return simt::bits_as<float>(v); }
inline int __float_as_int(float v) { return simt::bits_as<int>(v); }
inline unsigned __float_as_uint(float v) { return simt::bits_as<unsigned>(v); }
inline double __longlong_as_double(long long v) { return simt::bits_as<double>(v); }
inline long long __double_as_longlong(double v) { return simt::bits_as<long long>(v); }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __clz(int v) { return v == 0 ? 32 : __builtin_clz(static_cast<unsigned>(v)); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}
inline unsigned long long atomicAdd(unsigned long long* p, unsigned long long value) {
  return simt::add(p, value);
}
template <typename T>
T __ldg(const T* p) {
  return *p;
}
template <typename T>
void __stwb(T* p, T value) {
  *p = value;
}
inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t shift) {
  return static_cast<uint32_t>((static_cast<uint64_t>(high) << 32 | low) >> (shift & 31));
}
// Bytes of the eight in (y, x), by the four lowest hexadecimal digits of `selector`.
inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector) {
  const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    result |= static_cast<uint32_t>(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  }
  return result;
}

// The approximate functions, off by what NVIDIA's CUDA C++ Programming Guide states as their
// largest errors (table "Functions affected by -use_fast_math" and, for rsqrtf, "Mathematical
// functions"), so that a tolerance that holds here holds on any GPU.
inline float __log2f(float x) {
  const float exact = std::log2(x);
  return x >= 0.5f && x <= 2.0f ? exact + 0x1p-22f : exact * (1.0f + 2 * 0x1p-23f);
}
inline float rsqrtf(float x) { return (1.0f / std::sqrt(x)) * (1.0f + 2 * 0x1p-23f); }
inline void __sincosf(float x, float* sine, float* cosine) {  // |x| <= pi
  *sine = std::sin(x) + 0x1p-21f * 0.75f;                     // 2^-21.41
  *cosine = std::cos(x) + 0x1p-21f * 0.88f;                   // 2^-21.19
}
