"""Loads the compiled libraries, which register ``torch.ops.sprout_fast``.

``sprout_fast/_C.abi3.so`` is the Python module. It depends on ``lib/libsprout_fast.so``, which
holds the schemas and the CPU kernels. ``lib/libsprout_fast_cuda.so`` holds the CUDA kernels and is
loaded if torch is a CUDA build.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import torch

try:
    _C = import_module("sprout_fast._C")
except ImportError as error:
    raise ImportError(
        "sprout_fast's compiled extension is missing or cannot be loaded. Build it with "
        "`pip install --no-build-isolation -e .` in the repository (or `make build`). "
        f"The loader reported: {error}"
    ) from error

PACKAGE = Path(__file__).parent
CUDA_LIBRARY = PACKAGE / "lib" / "libsprout_fast_cuda.so"

# For C++ projects: with -DCMAKE_PREFIX_PATH=<this>, find_package(sprout_fast) finds the libraries.
cmake_prefix_path = str(PACKAGE)

_cuda_loaded = torch.version.cuda is not None and CUDA_LIBRARY.exists()
if _cuda_loaded:
    torch.ops.load_library(CUDA_LIBRARY)


def build_info() -> dict[str, object]:
    """Return how the compiled libraries were built and which parts of them are in use.

    Returns:
        ``version``, ``torch_built_with``, ``torch_abi``, ``compiler``, ``cpu_isas`` (the
        instruction sets compiled), ``cuda`` (version of nvcc, or None) and ``cuda_archs`` describe
        the build; ``cpu_isa`` and ``cuda_loaded`` what is in use in this process.

    Example:
        >>> import sprout_fast
        >>> sprout_fast.build_info()["cpu_isa"] in ("avx2", "portable")
        True
    """
    info = json.loads(_C.build_info_json())
    info["cpu_isa"] = "avx2" if _C.have_avx2() else "portable"
    info["cuda_loaded"] = _cuda_loaded
    return info


__version__ = str(build_info()["version"])
