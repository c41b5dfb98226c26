"""Loads the compiled libraries, which register ``torch.ops.sprout_fast``.

``sprout_fast/_C.abi3.so`` is the Python module, ``lib/libsprout_fast.so`` (which it brings) the
schemas and CPU kernels, and ``lib/libsprout_fast_cuda.so`` the CUDA kernels, loaded where torch can
use it.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

try:
    from sprout_fast import _C
except ImportError as error:
    raise ImportError(
        "sprout_fast's compiled extension is missing or does not load. Build it with "
        "`pip install --no-build-isolation -e .` in the repository (or `make build`). "
        f"The loader said: {error}"
    ) from error

PACKAGE = Path(__file__).parent
CUDA_LIBRARY = PACKAGE / "lib" / "libsprout_fast_cuda.so"

# For C++ projects: -DCMAKE_PREFIX_PATH=..., and find_package(sprout_fast) finds the libraries here.
cmake_prefix_path = str(PACKAGE)

_cuda_loaded = torch.version.cuda is not None and CUDA_LIBRARY.exists()
if _cuda_loaded:
    torch.ops.load_library(CUDA_LIBRARY)


def build_info() -> dict[str, object]:
    """What was built, and what of it is in use.

    Returns:
        ``version``, ``torch_built_with``, ``torch_abi``, ``compiler``, ``cpu_isas`` (instruction
        sets compiled), ``cuda`` (version of nvcc, or None), ``cuda_archs``: how it was built;
        ``cpu_isa``, ``cuda_loaded``: what runs here.

    >>> import sprout_fast
    >>> sprout_fast.build_info()["cpu_isa"] in ("avx2", "portable")
    True
    """
    info = json.loads(_C.build_info_json())
    info["cpu_isa"] = "avx2" if _C.have_avx2() else "portable"
    info["cuda_loaded"] = _cuda_loaded
    return info


__version__ = str(build_info()["version"])
