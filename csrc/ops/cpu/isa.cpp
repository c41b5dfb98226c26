#include "isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace sprout_fast {
namespace {

bool usable([[maybe_unused]] Isa isa) {
  if (isa == Isa::kPortable) return true;
#if defined(SPROUT_X86)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  if (isa == Isa::kAvx2) return avx2;
  return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
#else
  return false;
#endif
}

Isa find_best() {
  constexpr Isa kBestFirst[] = {Isa::kAvx512, Isa::kAvx2, Isa::kPortable};
  const char* wanted = std::getenv("SPROUT_FAST_ISA");
  const bool any = wanted == nullptr || *wanted == '\0';
  std::string names;
  for (const Isa isa : kBestFirst) {
    if (!usable(isa)) continue;
    if (any || wanted == std::string(isa_name(isa))) return isa;
    names += (names.empty() ? "" : ", ") + std::string(isa_name(isa));
  }
  throw std::runtime_error("sprout_fast: SPROUT_FAST_ISA must be one of " + names +
                           " on this machine, got '" + wanted + "'");
}

}  // namespace

const char* isa_name(Isa isa) {
  return isa == Isa::kAvx512 ? "avx512" : isa == Isa::kAvx2 ? "avx2" : "portable";
}

Isa best_isa() {
  static const Isa best = find_best();
  return best;
}

}  // namespace sprout_fast
