"""The compiled libraries, which register ``torch.ops.sprout_fast``.

``sprout_fast/_C.abi3.so`` is the Python module, ``lib/libsprout_fast.so`` (which it links) has the
schemas and CPU kernels, and ``lib/libsprout_fast_cuda.so`` the CUDA kernels, loaded if torch is a
CUDA build. Importing this module loads none of them, nor torch.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = Path(__file__).parent
CUDA_LIBRARY = PACKAGE / "lib" / "libsprout_fast_cuda.so"

# For C++ projects: with -DCMAKE_PREFIX_PATH=..., find_package(sprout_fast) finds the libraries.
cmake_prefix_path = str(PACKAGE)


def check_built() -> None:
    """Raise an ImportError with the build command if there is no compiled extension."""
    if find_spec("sprout_fast._C") is None:
        raise _import_error("it was not built")


@cache
def load() -> ModuleType:
    """Load the libraries and return ``sprout_fast._C``.

    Raises:
        ImportError: The extension is missing or does not load; the message has the build command.
    """
    import torch

    try:
        library = import_module("sprout_fast._C")
    except ImportError as error:
        raise _import_error(str(error)) from error
    if _cuda_is_loaded():
        torch.ops.load_library(CUDA_LIBRARY)
    return library


def build_info() -> dict[str, object]:
    """Return what was built, and which of it is in use.

    Returns:
        ``version``, ``torch_built_with``, ``torch_abi``, ``compiler``, ``cpu_isas`` (instruction
        sets compiled), ``cuda`` (version of nvcc, or None), ``cuda_archs`` and ``cuda_driver`` (the
        NVIDIA driver that it needs) describe the build; ``cpu_isa``, ``cuda_loaded`` and
        ``cuda_devices`` what runs here: of each GPU "ok", or why the CUDA ops will not run on it.

    Example:
        >>> import sprout_fast
        >>> sprout_fast.build_info()["cpu_isa"] in ("avx512", "avx2", "portable")
        True
    """
    library = load()
    info = json.loads(library.build_info_json())
    info["cpu_isa"] = library.cpu_isa()
    info["cuda_loaded"] = _cuda_is_loaded()
    if info["cuda"] is not None:
        info["cuda_driver"] = f"for CUDA {info['cuda'].split('.')[0]}.0 or later"
        info["cuda_devices"] = _devices(library, info) if info["cuda_loaded"] else {}
    return info


def _devices(library: ModuleType, info: dict[str, Any]) -> dict[str, str]:
    """Return "ok" or a problem for each GPU that torch sees."""
    import torch

    archs, found = ",".join(info["cuda_archs"]), {}
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        capability, name = 10 * properties.major + properties.minor, f"cuda:{index}"
        problem = library.device_problem(archs, capability, f"{name} ({properties.name})")
        found[f"{name} ({properties.name})"] = problem or "ok"
    return found


def _cuda_is_loaded() -> bool:
    import torch

    return torch.version.cuda is not None and CUDA_LIBRARY.exists()


def _import_error(reason: str) -> ImportError:
    return ImportError(
        "sprout_fast's compiled extension is missing or does not load. Build it with "
        "`pip install --no-build-isolation -e .` in the repository (or `make build`). "
        f"Reason: {reason}"
    )
