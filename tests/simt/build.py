"""Compiles the SIMT harness with g++ into build/simt, with objects cached by their content.

Two builds of the same sources:
    checked    -fsanitize=thread, whose calls the harness implements: detects races and reads of
               unwritten shared memory
    sanitized  AddressSanitizer and UBSan; can be loaded into a Python with libasan preloaded
Either can be built with a mistake planted in a copy of a kernel (float32 only).
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pybind11

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build" / "simt"
CXX = os.environ.get("CXX", "g++")
LAUNCHES = sorted(f.stem.removeprefix("launch_") for f in HERE.glob("launch_*.cpp"))

# -fno-strict-aliasing: packets are read through uint4, which nvcc allows. -fno-gnu-unique: builds
# loaded into the same process each need their own shared memory.
FLAGS = [
    "-std=c++17", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing",
    "-fno-gnu-unique", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas",
]  # fmt: skip
ASAN = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
# Flags for kernels, for the scheduler, and for linking.
VARIANTS = {
    "checked": (["-fsanitize=thread"], ["-O2", "-DSIMT_CHECK_MEMORY"], []),
    "sanitized": (ASAN, ASAN, ASAN),
}
# Planted mistakes are compiled with fewer checks, which halves the time.
PLANTED_FLAGS = ["-DSIMT_ONLY_FLOAT", "-fno-sanitize=null,vptr,bounds,shift"]


@dataclass(frozen=True)
class Mistake:
    """A planted mistake: ``old``, which occurs once in csrc/``file``, is replaced with ``new``."""

    op: str
    file: str
    old: str
    new: str


def _run(command: list[object]) -> str:
    """Run a command and return its output."""
    done = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}")
    return done.stdout


def cuda_include() -> Path | None:
    """Return the folder of cuda_fp16.h, of nvcc or of the package nvidia-cuda-runtime."""
    folders = [
        Path(p) for p in sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/include"))
    ]
    nvcc = shutil.which("nvcc")
    if nvcc:
        words = _run([nvcc, "--dryrun", "-E", "-x", "cu", os.devnull]).replace('"', " ").split()
        folders = [Path(w[2:]) for w in words if w.startswith("-I")] + folders
    return next((f.resolve() for f in folders if (f / "cuda_fp16.h").exists()), None)


@functools.cache
def _key() -> str:
    """Return a hash of everything that is compiled, except planted mistakes."""
    files = [*HERE.glob("*.h"), *HERE.glob("*.cpp")]
    files += [f for f in (ROOT / "csrc").rglob("*.*h") if "cpu" not in f.parts]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(str(file.relative_to(ROOT)).encode() + file.read_bytes())
    tools = (_run([CXX, "--version"]), sys.version, FLAGS, VARIANTS, PLANTED_FLAGS)
    digest.update(repr(tools).encode())
    return digest.hexdigest()[:16]


def _make(target: Path, command: list[object]) -> Path:
    """Run ``command -o target`` unless the target exists; never leave a partial file."""
    if not target.exists():
        partial = target.with_suffix(f".{os.getpid()}{target.suffix}")
        _run([*command, "-o", partial])
        partial.rename(target)
    return target


def _planted_root(mistake: Mistake) -> Path:
    """Return a copy of csrc with the mistake, to be searched for includes before the original."""
    name = hashlib.sha256(repr(mistake).encode()).hexdigest()[:12]
    root = BUILD / _key() / f"planted-{name}"
    if not root.exists():
        partial = root.with_suffix(f".{os.getpid()}")
        shutil.copytree(
            ROOT / "csrc", partial / "csrc", ignore=shutil.ignore_patterns("*.cpp", "*.cu")
        )
        file = partial / "csrc" / mistake.file
        text = file.read_text()
        if text.count(mistake.old) != 1:
            times = text.count(mistake.old)
            raise ValueError(
                f"{mistake.old!r} must occur once in {mistake.file}, got {times} times"
            )
        file.write_text(text.replace(mistake.old, mistake.new))
        partial.rename(root)
    return root


def build(variants: list[tuple[str, Mistake | None]]) -> list[Path]:
    """Build the extension module ``_simt`` for each (variant, mistake); return their paths."""
    include = cuda_include()
    if include is None:
        raise RuntimeError("no cuda_fp16.h: install nvcc or the package nvidia-cuda-runtime")
    folder = BUILD / _key()
    if not folder.exists():  # objects of older sources are useless
        shutil.rmtree(BUILD, ignore_errors=True)
        folder.mkdir(parents=True)
    system = ["-isystem", include]
    python = ["-isystem", sysconfig.get_path("include"), "-isystem", pybind11.get_include()]

    def object_of(source: str, flags: list[str], name: str, root: Path = ROOT) -> tuple:
        command = [CXX, *FLAGS, *flags, "-I", root, "-I", ROOT, "-I", HERE, *system]
        return folder / f"{name}.o", [*command, "-c", HERE / source]

    def kernel(op: str, variant: str, mistake: Mistake | None) -> tuple:
        flags = VARIANTS[variant][0]
        if mistake is None or mistake.op != op:
            return object_of(f"launch_{op}.cpp", flags, f"{variant}-{op}")
        root = _planted_root(mistake)
        flags = [*flags, *PLANTED_FLAGS]
        return object_of(f"launch_{op}.cpp", flags, f"{variant}-{root.name}", root)

    modules, objects = [], {}
    for variant, mistake in variants:
        of_kernels, of_scheduler, of_link = VARIANTS[variant]
        needed = [
            object_of("bindings.cpp", ["-O0", "-g0", *python], "bindings"),
            object_of("cuda_on_cpu.cpp", of_scheduler, f"{variant}-cuda_on_cpu"),
            *(kernel(op, variant, mistake) for op in LAUNCHES),
        ]
        objects.update(needed)
        name = variant if mistake is None else f"{variant}-{_planted_root(mistake).name}"
        (folder / name).mkdir(exist_ok=True)
        module = folder / name / f"_simt{sysconfig.get_config_var('EXT_SUFFIX')}"
        modules.append((module, [CXX, "-shared", *of_link, *(target for target, _ in needed)]))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # Start with the slowest.
        slow = sorted(objects.items(), key=lambda o: "gaussian" not in o[0].name)
        list(pool.map(lambda o: _make(*o), slow))
        return list(pool.map(lambda m: _make(*m), modules))


def sanitizer_environment() -> dict[str, str]:
    """Return the environment in which a Python process can load a ``sanitized`` module."""
    libraries = [
        _run([CXX, f"-print-file-name={name}"]).strip()
        for name in ("libasan.so", "libstdc++.so.6")  # libasan resolves __cxa_throw at startup
    ]
    # Python and torch leak deliberately, and so does a launch that ends with an error.
    return {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",
    }
