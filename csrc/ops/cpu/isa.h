// Kernel sources are compiled once per instruction set; the best one is chosen at run time.
//
// CMake compiles each *_kernel.cpp with SPROUT_ISA=portable and, on x86-64, again with
// SPROUT_ISA=avx2 and the flags for it. These files must not use torch or standard-library
// templates with external linkage: the linker might keep the copy compiled for AVX2 for all
// callers, which would crash on a machine without it.
#pragma once

#include "../../common/macros.h"

#if defined(SPROUT_ISA)
#define SPROUT_KERNEL_NAMESPACE_BEGIN \
  namespace sprout_fast {             \
  namespace SPROUT_ISA {
#define SPROUT_KERNEL_NAMESPACE_END \
  }                                 \
  }
#endif

// Declares `void name(arguments)` in each instruction set's namespace.
#if defined(SPROUT_HAVE_AVX2)
#define SPROUT_DECLARE_KERNEL(name, ...) \
  namespace sprout_fast::portable {      \
  void name(__VA_ARGS__);                \
  }                                      \
  namespace sprout_fast::avx2 {          \
  void name(__VA_ARGS__);                \
  }
#define SPROUT_BEST_KERNEL(name) (::sprout_fast::have_avx2() ? avx2::name : portable::name)
#else
#define SPROUT_DECLARE_KERNEL(name, ...) \
  namespace sprout_fast::portable {      \
  void name(__VA_ARGS__);                \
  }
#define SPROUT_BEST_KERNEL(name) portable::name
#endif

namespace sprout_fast {
// Whether the processor has AVX2, FMA and F16C, unless SPROUT_FAST_ISA=portable is set in the
// environment.
SPROUT_EXPORT bool have_avx2();
}  // namespace sprout_fast
