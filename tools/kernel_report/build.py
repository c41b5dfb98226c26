"""Find compiled kernels in the built library, or compile them for another architecture."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import sprout_fast
from kernel_report.disassembly import cuobjdump
from sprout_fast.errors import UserError

# The sources are those of the checkout that this file is in. The library is the installed one,
# which may come from a wheel.
ROOT = Path(__file__).resolve().parents[2]
LIBRARY = Path(sprout_fast.__file__).parent / "lib" / "libsprout_fast_cuda.so"


def architectures(file: Path) -> set[str]:
    """Return the architectures, e.g. ``{"sm_90"}``, with machine code in a library or object."""
    tool, environment = cuobjdump()
    done = subprocess.run(
        [tool, "-lelf", str(file)], env=environment, capture_output=True, text=True
    )
    return set(re.findall(r"\.(sm_\d+[af]?)\.cubin", done.stdout))


def compiled_files(arch: str, ops: str = "*", jobs: int = 2) -> list[Path]:
    """Return files that together contain every kernel for ``arch``, compiling them if necessary.

    If they are compiled, ``ops``, a pattern such as ``"gaussian_mixup"``, selects sources.

    Objects are kept in ``build/report-ARCH`` and reused; CMake decides which are out of date.

    Raises:
        UserError: the library has no code for ``arch``, and it cannot be compiled because the
            sources, CMake, ninja or nvcc are missing.
    """
    if LIBRARY.exists() and arch in architectures(LIBRARY):
        return [LIBRARY]
    sources = sorted((ROOT / "csrc" / "ops" / "cuda").glob(f"{ops}.cu"))
    if not sources or not (ROOT / "CMakeLists.txt").exists():
        raise UserError(
            f"{arch}: not in the built library, and there are no sources to compile;"
            " run from a checkout",
            option="arch",
        )
    path = sysconfig.get_path("scripts") + os.pathsep + os.environ.get("PATH", "")
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc", path=path)
    for name, found, package in (
        ("nvcc", nvcc, "the CUDA toolkit, or set CUDACXX"),
        ("cmake", shutil.which("cmake", path=path), "the packages cmake and ninja"),
        ("ninja", shutil.which("ninja", path=path), "the packages cmake and ninja"),
    ):
        if found is None:
            raise UserError(
                f"{arch}: not in the built library, and {name} to compile it was not found;"
                f" install {package}",
                option="arch",
            )
    folder = ROOT / "build" / f"report-{arch}"
    objects = [
        Path("CMakeFiles/sprout_fast_cuda.dir", source.relative_to(ROOT)).with_suffix(".cu.o")
        for source in sources
    ]
    environment = os.environ | {"PATH": path}
    configure = [
        "cmake", "-G", "Ninja", "-S", ROOT, "-B", folder, "-DSPROUT_WITH_CUDA=ON",
        f"-DPython_EXECUTABLE={sys.executable}", f"-DCMAKE_CUDA_COMPILER={nvcc}",
        f"-DSPROUT_CUDA_ARCHS={arch.removeprefix('sm_')}-real",
    ]  # fmt: skip
    for command in (configure, ["ninja", "-C", folder, f"-j{jobs}", *objects]):
        done = subprocess.run(
            list(map(str, command)), env=environment, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return [folder / file for file in objects]
