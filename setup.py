"""Builds the native part by calling CMake, which owns its sources and flags.

Decides one thing: whether the CUDA library is built. It is if torch is a CUDA build and an nvcc is
found (on PATH, under CUDA_HOME, or from the package nvidia-cuda-nvcc); FORCE_CUDA=1 builds it
whatever torch is, FORCE_CUDA=0 turns it off. TORCH_CUDA_ARCH_LIST names the architectures
("9.0;12.0+PTX"), or is "torch" for those of torch's own build, as a release is; by default they are
those of the GPUs present, or on a machine without one those from 8.0 to 12.0 that nvcc knows, and
PTX for later GPUs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
OLDEST_TORCH = "2.10"  # with the stable ABI that the libraries are written for
# The environment's own cmake and ninja come first, even if it is not activated.
os.environ["PATH"] = sysconfig.get_path("scripts") + os.pathsep + os.environ["PATH"]


def check_requirements() -> None:
    """Exit with one line if what ``[build-system] requires`` lists is missing or too old.

    With pip's ``--no-build-isolation`` nobody else checks it, and CMake's own errors are hundreds
    of lines.
    """
    oldest_cmake = re.search(
        r"cmake_minimum_required\(VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text()
    )[1]
    for program, oldest in (("cmake", oldest_cmake), ("ninja", "1.10")):
        path = shutil.which(program)
        if path is None:
            _stop(f"needs {program} >= {oldest}, found none on PATH", program, oldest)
        printed = subprocess.check_output([path, "--version"], text=True)
        version = re.search(r"\d+\.\d+[.\d]*", printed)[0]
        if _release(version) < _release(oldest):
            _stop(f"needs {program} >= {oldest}, found {version} at {path}", program, oldest)
    try:
        import torch
    except ModuleNotFoundError:
        _stop(f"needs torch >= {OLDEST_TORCH}, found none in {sys.prefix}", "torch", OLDEST_TORCH)
    if _release(torch.__version__) < _release(OLDEST_TORCH):
        found = f"found {torch.__version__} in {sys.prefix}"
        _stop(f"needs torch >= {OLDEST_TORCH}, {found}", "torch", OLDEST_TORCH)


def _release(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


def _stop(problem: str, package: str, oldest: str) -> None:
    sys.exit(f"sprout_fast: building {problem}; run: pip install '{package}>={oldest}'")


def find_nvcc() -> str | None:
    candidates = [os.environ.get("CUDACXX"), shutil.which("nvcc")]
    if "CUDA_HOME" in os.environ:
        candidates.append(f"{os.environ['CUDA_HOME']}/bin/nvcc")
    for folder in map(Path, sys.path):
        candidates += sorted(map(str, folder.glob("nvidia/cu*/bin/nvcc")))
    return next((c for c in candidates if c and os.access(c, os.X_OK)), None)


def default_archs(nvcc: str | None) -> str:
    """Architectures for a machine without a GPU: A100, RTX 30 and 40, H100, B200, RTX 50, later."""
    wanted = ["8.0", "8.6", "8.9", "9.0", "10.0", "12.0"]
    if nvcc is not None:
        printed = subprocess.check_output([nvcc, "--list-gpu-arch"], text=True).split()
        wanted = [arch for arch in wanted if f"compute_{arch.replace('.', '')}" in printed]
    return ";".join(wanted) + "+PTX"


def cuda_archs(nvcc: str | None = None) -> list[str]:
    """CMake's names ("90", "120a") for TORCH_CUDA_ARCH_LIST ("9.0;12.0a+PTX") or this machine."""
    import torch

    named = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(" ", ";").replace(",", ";")
    if named == "torch":
        # "sm_80 sm_90 compute_120": torch.cuda.get_arch_list() is empty without a GPU
        flags = torch._C._cuda_getArchFlags() if torch.version.cuda else ""
        if not flags:
            sys.exit("TORCH_CUDA_ARCH_LIST=torch: this torch is a CPU build and has no list")
        real = [f"{f.removeprefix('sm_')}-real" for f in flags.split() if f.startswith("sm_")]
        virtual = [f.removeprefix("compute_") for f in flags.split() if f.startswith("compute_")]
        return real + [f"{v}-virtual" for v in virtual]
    if not named:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        present = {"{}.{}".format(*torch.cuda.get_device_capability(i)) for i in range(count)}
        named = ";".join(sorted(present)) or default_archs(nvcc or find_nvcc())
    archs = []
    for name in filter(None, named.split(";")):
        arch = name.removesuffix("+PTX").replace(".", "")
        if not arch.rstrip("af").isdigit():
            sys.exit(f"TORCH_CUDA_ARCH_LIST: expected numbers such as 9.0 or 10.0+PTX, got {name}")
        archs.append(arch if name.endswith("+PTX") else f"{arch}-real")
    return archs


def cuda_choice() -> tuple[str | None, str]:
    """Return the nvcc to build the CUDA library with, or None, and the reason."""
    import torch

    forced = os.environ.get("FORCE_CUDA", "")
    if forced not in ("", "0", "1"):
        sys.exit(f"FORCE_CUDA must be 0 or 1, got {forced!r}")
    if forced == "0":
        return None, "off, by FORCE_CUDA=0"
    if not forced and torch.version.cuda is None:
        return None, f"off: torch {torch.__version__} is a CPU build (FORCE_CUDA=1 overrides)"
    nvcc = find_nvcc()
    if nvcc is None:
        if forced:
            sys.exit("FORCE_CUDA=1, but no nvcc: put it on PATH or install nvidia-cuda-nvcc")
        return None, "off: torch is a CUDA build, but there is no nvcc on PATH or under CUDA_HOME"
    return nvcc, f"on, {nvcc} for {', '.join(cuda_archs(nvcc))}"


class CMakeBuild(build_ext):
    """Runs CMake and installs what it built into the package folder."""

    def run(self) -> None:
        check_requirements()
        super().run()

    def build_extension(self, ext: Extension) -> None:
        import torch

        nvcc, why = cuda_choice()
        version = torch.__version__
        print(f"sprout_fast: CPU library for torch {version}; CUDA library {why}", flush=True)
        # One build folder for wheels, editable installs and build_ext: nothing is compiled twice.
        build = ROOT / "build" / f"cmake-torch{version}"
        arguments = [
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DSPROUT_WITH_CUDA={'ON' if nvcc else 'OFF'}",
        ]
        if nvcc:
            arguments += [
                f"-DCMAKE_CUDA_COMPILER={nvcc}",
                f"-DSPROUT_CUDA_ARCHS={';'.join(cuda_archs(nvcc))}",
            ]
            # Of the package nvidia-cuda-nvcc, which has lib/ where nvcc tells the linker lib64/.
            libraries = Path(nvcc).parents[1] / "lib"
            if libraries.is_dir() and not libraries.with_name("lib64").exists():
                paths = [str(libraries), os.environ.get("LIBRARY_PATH")]
                os.environ["LIBRARY_PATH"] = os.pathsep.join(filter(None, paths))
        subprocess.check_call(["cmake", "-G", "Ninja", "-S", ROOT, "-B", build, *arguments])
        subprocess.check_call(["cmake", "--build", build])
        self.cmake_build_folder = build
        self.install_into(Path(self.get_ext_fullpath(ext.name)).parent)

    def copy_extensions_to_source(self) -> None:
        """Install the libraries next to _C for --inplace and editable installs."""
        self.install_into(ROOT / "sprout_fast")

    def install_into(self, package: Path) -> None:
        # A CPU build must not leave the CUDA library of an earlier build next to it.
        (package / "lib" / "libsprout_fast_cuda.so").unlink(missing_ok=True)
        install = ["cmake", "--install", self.cmake_build_folder, "--prefix", package.resolve()]
        for component in ([], ["--component", "python"]):
            subprocess.check_call([*install, *component], stdout=subprocess.DEVNULL)


class Abi3Wheel(bdist_wheel):
    def finalize_options(self) -> None:
        self.py_limited_api = "cp310"
        super().finalize_options()

    def run(self) -> None:
        check_requirements()  # before build_py has printed a line per file
        # Modules that were moved or removed since an earlier build must not get into the wheel.
        shutil.rmtree(self.get_finalized_command("build").build_lib, ignore_errors=True)
        super().run()


setup(
    ext_modules=[Extension("sprout_fast._C", sources=[], py_limited_api=True)],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": Abi3Wheel},
)
