// Whether the CUDA library's machine code runs on a GPU. Without CUDA, so that it can be tested
// where there is none.
#pragma once

#include <string>

#include "../common/macros.h"

namespace sprout_fast {

// Empty if code built for `archs` runs on a GPU of compute capability `capability` (89 is 8.9);
// otherwise one line that names both and says how to build for it. `archs` are CMake's names:
// "80-real,90a-real,120" holds machine code for 8.0, which 8.6 runs too, for exactly 9.0, and
// for 12.0 machine code and PTX, which all later GPUs compile.
SPROUT_EXPORT std::string device_problem(const char* archs, int capability, const char* device);

// The same for a driver and the CUDA runtime that the library is linked with, in CUDA's own numbers
// (13000 is 13.0); a driver of 0 is unknown.
SPROUT_EXPORT std::string driver_problem(int driver, int runtime);

}  // namespace sprout_fast
