"""Where compiled kernels come from: the built library, or objects compiled for an architecture."""

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

ROOT = Path(sprout_fast.__file__).parents[1]
LIBRARY = Path(sprout_fast.__file__).parent / "lib" / "libsprout_fast_cuda.so"


def architectures(file: Path) -> set[str]:
    """The architectures that a library or object file holds machine code for: {"sm_90"}."""
    tool, environment = cuobjdump()
    done = subprocess.run(
        [tool, "-lelf", str(file)], env=environment, capture_output=True, text=True
    )
    return set(re.findall(r"\.(sm_\d+[af]?)\.cubin", done.stdout))


def compiled_files(arch: str, jobs: int = 2) -> list[Path]:
    """Files with every kernel for ``arch``; compiles what the built library does not hold.

    The objects stay in ``build/report-ARCH``, where the next call finds them; CMake decides which
    are out of date.

    Raises:
        UserError: the library does not hold ``arch``, and there is no checkout, CMake or nvcc to
            compile with.
    """
    if LIBRARY.exists() and arch in architectures(LIBRARY):
        return [LIBRARY]
    sources = sorted((ROOT / "csrc" / "ops" / "cuda").glob("*.cu"))
    if not sources or not (ROOT / "CMakeLists.txt").exists():
        raise UserError(
            f"--arch {arch}: the built library does not hold it, and there are no sources to"
            " compile: run from a checkout"
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
                f"--arch {arch}: the built library does not hold it, and there is no {name} to"
                f" compile it: install {package}"
            )
    folder = ROOT / "build" / f"report-{arch}"
    objects = [
        Path("CMakeFiles/sprout_fast_cuda.dir", s.relative_to(ROOT)).with_suffix(".cu.o")
        for s in sources
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
    return [folder / o for o in objects]
