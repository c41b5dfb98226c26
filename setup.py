"""Builds the native part by calling CMake, which owns its sources and flags.

Decides one thing: whether the CUDA library is built. It is when torch is a CUDA build and an nvcc
is found (on PATH, under CUDA_HOME, or from the package nvidia-cuda-nvcc); FORCE_CUDA=1 asks for it
whatever torch is, FORCE_CUDA=0 turns it off. TORCH_CUDA_ARCH_LIST names the
architectures ("9.0;12.0+PTX"), or is "torch" for those that torch itself was built for, as a
release is; without it they are those of the GPUs present, or 9.0 on a machine without one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
# The venv's own cmake and ninja, also where nobody activated it.
os.environ["PATH"] = sysconfig.get_path("scripts") + os.pathsep + os.environ["PATH"]


def find_nvcc() -> str | None:
    candidates = [os.environ.get("CUDACXX"), shutil.which("nvcc")]
    if "CUDA_HOME" in os.environ:
        candidates.append(f"{os.environ['CUDA_HOME']}/bin/nvcc")
    for folder in map(Path, sys.path):
        candidates += sorted(map(str, folder.glob("nvidia/cu*/bin/nvcc")))
    return next((c for c in candidates if c and os.access(c, os.X_OK)), None)


def cuda_archs() -> list[str]:
    """CMake's names ("90", "120a") for TORCH_CUDA_ARCH_LIST ("9.0;12.0a+PTX") or this machine."""
    import torch

    named = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(" ", ";").replace(",", ";")
    if (
        named == "torch"
    ):  # "sm_80 sm_90 compute_120": torch.cuda.get_arch_list() is empty without a GPU
        flags = torch._C._cuda_getArchFlags() if torch.version.cuda else ""
        if not flags:
            sys.exit("TORCH_CUDA_ARCH_LIST=torch: this torch is a CPU build and has no list")
        real = [f"{f.removeprefix('sm_')}-real" for f in flags.split() if f.startswith("sm_")]
        virtual = [f.removeprefix("compute_") for f in flags.split() if f.startswith("compute_")]
        return real + [f"{v}-virtual" for v in virtual]
    if not named:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        present = {"{}.{}".format(*torch.cuda.get_device_capability(i)) for i in range(count)}
        named = ";".join(sorted(present)) or "9.0"
    archs = []
    for name in filter(None, named.split(";")):
        arch = name.removesuffix("+PTX").replace(".", "")
        if not arch.rstrip("af").isdigit():
            sys.exit(f"TORCH_CUDA_ARCH_LIST: expected numbers such as 9.0 or 10.0+PTX, got {name}")
        archs.append(arch if name.endswith("+PTX") else f"{arch}-real")
    return archs


def cuda_choice() -> tuple[str | None, str]:
    """The nvcc to build the CUDA library with, or None, and why."""
    import torch

    forced = os.environ.get("FORCE_CUDA", "")
    if forced not in ("", "0", "1"):
        sys.exit(f"FORCE_CUDA must be 0 or 1, got {forced!r}")
    if forced == "0":
        return None, "off, by FORCE_CUDA=0"
    if not forced and torch.version.cuda is None:
        return None, f"off: torch {torch.__version__} is a CPU build (FORCE_CUDA=1 insists)"
    nvcc = find_nvcc()
    if nvcc is None:
        if forced:
            sys.exit("FORCE_CUDA=1, but no nvcc: put it on PATH or install nvidia-cuda-nvcc")
        return None, "off: torch is a CUDA build, but there is no nvcc on PATH or under CUDA_HOME"
    return nvcc, f"on, {nvcc} for {', '.join(cuda_archs())}"


class CMakeBuild(build_ext):
    """Runs CMake and installs what it built into the package folder."""

    def build_extension(self, ext: Extension) -> None:
        import torch

        nvcc, why = cuda_choice()
        version = torch.__version__
        print(f"sprout_fast: CPU library for torch {version}; CUDA library {why}", flush=True)
        # One build folder for every way of calling, so that nothing is compiled twice.
        build = ROOT / "build" / f"cmake-torch{version}"
        arguments = [
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DSPROUT_WITH_CUDA={'ON' if nvcc else 'OFF'}",
        ]
        if nvcc:
            arguments += [
                f"-DCMAKE_CUDA_COMPILER={nvcc}",
                f"-DSPROUT_CUDA_ARCHS={';'.join(cuda_archs())}",
            ]
        subprocess.check_call(["cmake", "-G", "Ninja", "-S", ROOT, "-B", build, *arguments])
        subprocess.check_call(["cmake", "--build", build])
        self.cmake_build_folder = build
        self.install_into(Path(self.get_ext_fullpath(ext.name)).parent)

    def copy_extensions_to_source(self) -> None:
        """For --inplace and editable installs: the libraries beside _C as well."""
        self.install_into(ROOT / "sprout_fast")

    def install_into(self, package: Path) -> None:
        # Not to leave a CUDA library from an earlier build beside a CPU library of this one.
        (package / "lib" / "libsprout_fast_cuda.so").unlink(missing_ok=True)
        install = ["cmake", "--install", self.cmake_build_folder, "--prefix", package.resolve()]
        for component in ([], ["--component", "python"]):
            subprocess.check_call([*install, *component], stdout=subprocess.DEVNULL)


class Abi3Wheel(bdist_wheel):
    def finalize_options(self) -> None:
        self.py_limited_api = "cp310"
        super().finalize_options()


setup(
    ext_modules=[Extension("sprout_fast._C", sources=[], py_limited_api=True)],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": Abi3Wheel},
)
