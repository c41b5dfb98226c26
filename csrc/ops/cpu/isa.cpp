#include "isa.h"

#include <cstdlib>
#include <cstring>

namespace sprout_fast {

bool have_avx2() {
  static const bool have = [] {
    const char* wanted = std::getenv("SPROUT_FAST_ISA");
    if (wanted != nullptr && std::strcmp(wanted, "portable") == 0) return false;
#if defined(SPROUT_HAVE_AVX2)
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
#else
    return false;
#endif
  }();
  return have;
}

}  // namespace sprout_fast
