// Kernel sources are compiled once per instruction set; the best one is chosen at run time.
//
// CMake compiles each *_kernel.cpp with SPROUT_ISA=portable and, on x86-64, again with
// SPROUT_ISA=avx2 and SPROUT_ISA=avx512 and the flags for them. These files must not use torch or
// standard-library templates with external linkage: the linker might keep the copy compiled for
// AVX2 or AVX-512 for all callers, which would crash on a machine without it.
#pragma once

#include <cstdint>

#include "../../common/macros.h"

#if defined(SPROUT_ISA)
#define SPROUT_KERNEL_NAMESPACE_BEGIN \
  namespace sprout_fast {             \
  namespace SPROUT_ISA {
#define SPROUT_KERNEL_NAMESPACE_END \
  }                                 \
  }
#endif

namespace sprout_fast {

enum class Isa : int32_t { kPortable, kAvx2, kAvx512 };

// Of the instruction sets compiled, the best one that the processor has, or the one that the
// environment's SPROUT_FAST_ISA names. Throws if that is none of them.
SPROUT_EXPORT Isa best_isa();
SPROUT_EXPORT const char* isa_name(Isa isa);

}  // namespace sprout_fast

// SPROUT_DECLARE_KERNEL declares `void name(arguments)` in each instruction set's namespace;
// SPROUT_BEST_KERNEL is the one to call.
#if defined(SPROUT_X86)
#define SPROUT_DECLARE_KERNEL(name, ...) \
  namespace sprout_fast::portable {      \
  void name(__VA_ARGS__);                \
  }                                      \
  namespace sprout_fast::avx2 {          \
  void name(__VA_ARGS__);                \
  }                                      \
  namespace sprout_fast::avx512 {        \
  void name(__VA_ARGS__);                \
  }
#define SPROUT_BEST_KERNEL(name)                                           \
  (::sprout_fast::best_isa() == ::sprout_fast::Isa::kAvx512 ? avx512::name \
   : ::sprout_fast::best_isa() == ::sprout_fast::Isa::kAvx2 ? avx2::name   \
                                                            : portable::name)
#else
#define SPROUT_DECLARE_KERNEL(name, ...) \
  namespace sprout_fast::portable {      \
  void name(__VA_ARGS__);                \
  }
#define SPROUT_BEST_KERNEL(name) portable::name
#endif
