// One kernel source, compiled once for every instruction set, the best chosen at run time.
//
// CMake compiles each *_kernel.cpp twice, with SPROUT_ISA = portable and, on x86-64, SPROUT_ISA =
// avx2 (and the flags for it). Those files include no torch and no standard-library templates with
// external linkage: such a function, compiled for AVX2, could be the copy that the linker keeps for
// everybody, and crash on a machine without it.
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
// Whether the processor has AVX2, FMA and F16C, and SPROUT_FAST_ISA=portable is not in the
// environment (isa.cpp).
SPROUT_EXPORT bool have_avx2();
}  // namespace sprout_fast
