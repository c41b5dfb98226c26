# Finds torch for sprout_fast's own build and for the projects that link what it installed.
#
# find_package(Torch) asks for the whole CUDA toolkit with a CUDA torch. The ops are on torch's
# stable ABI, which needs its headers and libtorch_cpu alone (and libtorch_cuda for the CUDA ops).
#
# Reads SPROUT_TORCH_DIR, the folder with torch's include/ and lib/: the Python package or a
# libtorch. Without it: the torch that find_package(Torch) has found, else the one that
# Python_EXECUTABLE imports. Defines
#   sprout_fast::torch        headers and libtorch_cpu
#   sprout_fast::torch_cuda   libtorch_cuda, where torch is a CUDA build
# or neither, and then SPROUT_TORCH_PROBLEM says why.
if(NOT SPROUT_TORCH_DIR)
  set(SPROUT_TORCH_DIR ${TORCH_INSTALL_PREFIX})
endif()
if(NOT SPROUT_TORCH_DIR)
  find_package(Python 3.10 QUIET COMPONENTS Interpreter)
  if(Python_EXECUTABLE)
    execute_process(
      COMMAND ${Python_EXECUTABLE} -c
              "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
      OUTPUT_VARIABLE SPROUT_TORCH_DIR OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
endif()

if(NOT EXISTS "${SPROUT_TORCH_DIR}/lib/libtorch_cpu.so")
  set(SPROUT_TORCH_PROBLEM
      "no lib/libtorch_cpu.so in SPROUT_TORCH_DIR (\"${SPROUT_TORCH_DIR}\"): set it to torch's \
folder, or Python_EXECUTABLE (\"${Python_EXECUTABLE}\") to a Python with torch")
elseif(NOT TARGET sprout_fast::torch)
  add_library(sprout_fast::torch SHARED IMPORTED)
  set_target_properties(sprout_fast::torch PROPERTIES
    IMPORTED_LOCATION ${SPROUT_TORCH_DIR}/lib/libtorch_cpu.so
    INTERFACE_INCLUDE_DIRECTORIES ${SPROUT_TORCH_DIR}/include)
  if(EXISTS ${SPROUT_TORCH_DIR}/lib/libtorch_cuda.so)
    add_library(sprout_fast::torch_cuda SHARED IMPORTED)
    set_target_properties(sprout_fast::torch_cuda PROPERTIES
      IMPORTED_LOCATION ${SPROUT_TORCH_DIR}/lib/libtorch_cuda.so)
  endif()
endif()
