#include "device_support.h"

#include <sstream>
#include <vector>

namespace sprout_fast {
namespace {

struct Arch {
  int capability = 0;
  bool machine_code = true, ptx = true, exact = false;  // exact: no later GPU runs it
};

std::vector<Arch> parse(const char* archs) {
  std::vector<Arch> found;
  std::istringstream list(archs);
  for (std::string name; std::getline(list, name, ',');) {
    Arch arch;
    size_t end = 0;
    arch.capability = std::stoi(name, &end);
    const char suffix = end < name.size() ? name[end] : '-';
    arch.exact = suffix == 'a';
    arch.ptx = suffix != 'a' && suffix != 'f' && name.find("-real") == std::string::npos;
    arch.machine_code = name.find("-virtual") == std::string::npos;
    found.push_back(arch);
  }
  return found;
}

std::string dotted(int capability) {
  return std::to_string(capability / 10) + "." + std::to_string(capability % 10);
}

}  // namespace

std::string device_problem(const char* archs, int capability, const char* device) {
  std::string holds;
  for (const Arch& arch : parse(archs)) {
    if (arch.exact) {
      if (arch.capability == capability) return "";
    } else {
      // Machine code runs on later GPUs of the same major version, PTX on all later ones.
      const bool same_major = arch.capability / 10 == capability / 10;
      if (arch.capability <= capability && (arch.ptx || (arch.machine_code && same_major))) {
        return "";
      }
    }
    holds += (holds.empty() ? "" : ", ") + dotted(arch.capability) + (arch.ptx ? "+PTX" : "");
  }
  return "sprout_fast's CUDA library was built for compute capability " + holds + ", and " +
         device + " has " + dotted(capability) +
         "; rebuild it on this machine, or with TORCH_CUDA_ARCH_LIST=" + dotted(capability) +
         ": pip install --no-build-isolation -e . (or make build)";
}

std::string driver_problem(int driver, int runtime) {
  // A driver serves every runtime of its own major version and of older ones.
  if (driver == 0 || driver / 1000 >= runtime / 1000) return "";
  const auto version = [](int number) {
    return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
  };
  return "sprout_fast's CUDA library was built with CUDA " + version(runtime) +
         ", and the installed NVIDIA driver supports CUDA " + version(driver) +
         "; update the driver, or rebuild with an nvcc of CUDA " + std::to_string(driver / 1000) +
         ": CUDACXX=.../bin/nvcc pip install --no-build-isolation -e .";
}

}  // namespace sprout_fast
