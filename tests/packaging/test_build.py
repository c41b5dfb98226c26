"""The build: what setup.py chooses and refuses, and what the compiled libraries hold."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.command import run
from helpers.paths import ROOT

import sprout_fast
from sprout_fast import _C

PACKAGE = Path(sprout_fast.__file__).parent


def test_build_info():
    info = sprout_fast.build_info()
    assert info["version"] == sprout_fast.__version__
    assert "portable" in info["cpu_isas"] and info["cpu_isa"] in info["cpu_isas"]
    built_with_cuda = (PACKAGE / "lib" / "libsprout_fast_cuda.so").exists()
    assert (info["cuda"] is not None) == built_with_cuda
    assert info["cuda_loaded"] == (built_with_cuda and torch.version.cuda is not None)


def test_libraries_need_the_stable_abi_only():
    """No C++ symbol of ATen or c10: torch is used through its C shims only."""
    for library in (PACKAGE / "lib").glob("*.so"):
        symbols = run("nm", "-D", "--undefined-only", "-C", library)
        assert "aoti_torch" in symbols
        assert not re.findall(r"U ((?:at|c10|torch)::.*)", symbols), library


def test_libraries_name_no_path_of_the_build_machine():
    """Neither in __FILE__, which torch's checks put into error messages, nor in debug information.

    Paths that every machine has, such as /usr/include or /tmp, are not meant.
    """
    machine = [ROOT, Path(sys.prefix), Path(torch.__file__).parents[1], Path.home()]
    for library in [*(PACKAGE / "lib").glob("*.so"), *PACKAGE.glob("_C*.so")]:
        data = library.read_bytes()
        assert not [path for path in machine if f"{path}/".encode() in data], library
    library = (PACKAGE / "lib" / "libsprout_fast.so").read_bytes()
    assert b"\0csrc/ops/sprout_loss_call.cpp\0" in library
    assert b"\0torch/csrc/stable/" in library


def avx2_objects():
    """The compiled AVX2 kernels, of which an x86-64 build has at least one."""
    if "avx2" not in sprout_fast.build_info()["cpu_isas"]:
        pytest.skip("this build has no AVX2 kernels")
    folder = ROOT / "build" / f"cmake-torch{torch.__version__}"
    objects = sorted(folder.glob("CMakeFiles/sprout_kernels_avx2.dir/**/*.o"))
    assert objects, folder
    return objects


def test_avx2_objects_hold_no_code_for_others():
    """No weak symbol: the linker could keep its AVX2 code for machines without AVX2."""
    for file in avx2_objects():
        weak = [line for line in run("nm", file).splitlines() if " W " in line or " V " in line]
        # The reference to the personality routine of C++ exceptions is data without instructions.
        assert not [line for line in weak if "__gxx_personality" not in line], file


def test_avx2_objects_hold_no_masked_loads():
    """GCC 12 compiles ``condition ? x : load`` to one, under a wrong mask with -fno-trapping-math.

    (Found by tests/simt: sprout_loss with a beta of 0.) If one turns up, load first, then select.
    """
    for file in avx2_objects():
        code = run("objdump", "-d", "--no-show-raw-insn", file)
        assert "maskmov" not in code, file


# Every dtype, layout and region of the gradient in a few seconds; `make asan` runs all.
PORTABLE = (
    "against_mpmath or float64 or concentrations_zero or test_dtypes or layouts or of_log_gamma"
)


def test_portable_kernels_agree():
    """Part of the op tests on the same source without AVX2, in a process of its own."""
    code = (
        "import sys, pytest, sprout_fast\n"
        "print(sprout_fast.build_info()['cpu_isa'], flush=True)\n"
        "sys.exit(pytest.main(['-p', 'no:cacheprovider', *sys.argv[1:]]))"
    )
    ops = ["dirichlet", "gaussian_mixup", "generalized_cross_entropy", "log_gamma", "pgd_step"]
    tests = [ROOT / "tests" / "ops" / f"test_{op}.py" for op in [*ops, "sprout_loss"]]
    env = os.environ | {"SPROUT_FAST_ISA": "portable"}
    out = run(sys.executable, "-c", code, *tests, "-k", PORTABLE, cwd=ROOT, env=env)
    assert out.splitlines()[0] == "portable"
    assert int(re.search(r"^(\d+) passed", out, re.MULTILINE)[1]) > 60


SETUP = """
import runpy, sys
sys.argv = ["setup.py", "--version"]
s = runpy.run_path("setup.py")
"""


@pytest.mark.parametrize(
    "listed, archs",
    [
        ("9.0", ["90-real"]),
        ("8.0;9.0 10.0+PTX", ["80-real", "90-real", "100"]),
        ("9.0a,12.0", ["90a-real", "120-real"]),
    ],
)
def test_arch_list(listed, archs):
    code = f"{SETUP}print(s['cuda_archs']())"
    env = os.environ | {"TORCH_CUDA_ARCH_LIST": listed}
    out = run(sys.executable, "-c", code, cwd=ROOT, env=env)
    assert out.splitlines()[-1] == str(archs)


def test_without_a_gpu_the_build_serves_every_recent_one(tmp_path):
    nvcc = tmp_path / "nvcc"
    for known, expected in (
        ("75 80 86 87 89 90 100 120", "8.0;8.6;8.9;9.0;10.0;12.0+PTX"),
        ("75 80 86 89 90", "8.0;8.6;8.9;9.0+PTX"),
    ):
        lines = "\\n".join(f"compute_{arch}" for arch in known.split())
        nvcc.write_text(f"#!/bin/sh\nprintf '{lines}\\n'\n")
        nvcc.chmod(0o755)
        out = run(sys.executable, "-c", f"{SETUP}print(s['default_archs']({str(nvcc)!r}))", cwd=ROOT)
        assert out.splitlines()[-1] == expected


@pytest.mark.parametrize(
    "archs, capability, runs",
    [
        ("80-real", 80, True),
        ("80-real", 86, True),  # machine code runs on later GPUs of the major version
        ("86-real", 80, False),
        ("80-real", 90, False),
        ("80", 90, True),  # PTX is compiled on any later GPU
        ("80-virtual", 120, True),
        ("90", 89, False),
        ("90a-real", 90, True),
        ("90a", 100, False),  # neither code nor PTX of a suffix runs elsewhere
        ("100f-real", 103, True),
        ("100f", 120, False),
        ("80-real;86-real;89-real;90-real;100-real;120", 75, False),
        ("80-real;86-real;89-real;90-real;100-real;120", 89, True),
        ("80-real;86-real;89-real;90-real;100-real;120", 121, True),
    ],
)
def test_a_gpu_that_the_library_was_not_built_for_is_named(archs, capability, runs):
    problem = _C.device_problem(archs, capability, "cuda:0 (some GPU)")
    assert (problem == "") == runs
    if not runs:
        dotted = f"{capability // 10}.{capability % 10}"
        assert f"cuda:0 (some GPU) has {dotted}; rebuild" in problem
        assert f"TORCH_CUDA_ARCH_LIST={dotted}: pip install" in problem
        assert problem.count("\n") == 0


@pytest.mark.parametrize(
    "driver, runs", [(13000, True), (13020, True), (14000, True), (12080, False), (0, True)]
)
def test_a_driver_that_is_too_old_is_named(driver, runs):
    problem = _C.driver_problem(driver, 13000)
    assert (problem == "") == runs
    if not runs:
        assert "built with CUDA 13.0" in problem and "driver supports CUDA 12.8;" in problem


@pytest.mark.skipif(torch.version.cuda is None, reason="a CPU build of torch has no list")
def test_torchs_own_arch_list():
    env = os.environ | {"TORCH_CUDA_ARCH_LIST": "torch"}
    out = run(sys.executable, "-c", f"{SETUP}print(s['cuda_archs']())", cwd=ROOT, env=env)
    archs = out.splitlines()[-1]
    for flag in torch._C._cuda_getArchFlags().split():
        kind, number = flag.split("_")
        assert repr(number + {"sm": "-real", "compute": "-virtual"}[kind]) in archs


@pytest.mark.parametrize(
    "env, choice",
    [
        ({"FORCE_CUDA": "0"}, "off, by FORCE_CUDA=0"),
        ({"PATH": "/usr/bin:/bin"}, "off: torch is a CUDA build, but there is no nvcc"),
        ({"FORCE_CUDA": "2"}, "FORCE_CUDA must be 0 or 1, got '2'"),
        ({"FORCE_CUDA": "1", "PATH": "/usr/bin:/bin"}, "FORCE_CUDA=1, but no nvcc"),
        ({"FORCE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "hopper"}, "expected numbers such as 9.0"),
    ],
)
def test_cuda_choice(env, choice):
    if torch.version.cuda is None and "torch is a CUDA build" in choice:
        pytest.skip("this torch is a CPU build")
    clean = {k: v for k, v in os.environ.items() if k not in ("CUDA_HOME", "CUDACXX")}
    done = subprocess.run(
        [sys.executable, "-c", f"{SETUP}print(s['cuda_choice']())"],
        cwd=ROOT, env=clean | env, capture_output=True, text=True,
    )  # fmt: skip
    assert choice in done.stdout + done.stderr


def setup_with(path, *command):
    """The lines on stderr of a setup.py that fails, with no other program than those in path."""
    # setup.py looks among the environment's own scripts first.
    code = f"import sys; sys.argv = ['setup.py', *{command!r}]\n" + (
        "import sysconfig; sysconfig.get_path = lambda name: '/none'\n"
        "import runpy; runpy.run_path('setup.py', run_name='__main__')"
    )
    env = {"PATH": str(path), "HOME": os.environ.get("HOME", "/")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode != 0, done.stdout
    return done.stderr.strip().splitlines()


@pytest.fixture
def programs(tmp_path):
    """A folder for PATH with a cmake and a ninja that only print versions."""

    def make(**versions):
        for name, version in versions.items():
            (tmp_path / name).write_text(f"#!/bin/sh\necho {name} version {version}\n")
            (tmp_path / name).chmod(0o755)
        return tmp_path

    return make


@pytest.mark.parametrize("command", ["bdist_wheel", "build_ext"])
def test_old_cmake_is_one_line(programs, command):
    path = programs(cmake="3.25.1", ninja="1.11.1")
    assert setup_with(path, command)[-1] == (
        f"sprout_fast: building needs cmake >= 3.26, found 3.25.1 at {path}/cmake; "
        "run: pip install 'cmake>=3.26'"
    )


def test_missing_programs_are_one_line(programs):
    (line,) = setup_with(programs(), "bdist_wheel")[-1:]
    assert line.startswith("sprout_fast: building needs cmake >= 3.26, found none on PATH;")
    (line,) = setup_with(programs(cmake="3.26.0"), "bdist_wheel")[-1:]
    assert line == (
        "sprout_fast: building needs ninja >= 1.10, found none on PATH; "
        "run: pip install 'ninja>=1.10'"
    )


@pytest.mark.parametrize("version, found", [(None, "none"), ("2.9.1+cpu", "2.9.1+cpu")])
def test_old_torch_is_one_line(tmp_path, version, found):
    (tmp_path / "torch.py").write_text(
        f"__version__ = {version!r}" if version else "raise ModuleNotFoundError('torch')"
    )
    code = f"{SETUP}s['check_requirements']()"
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 1
    line = f"sprout_fast: building needs torch >= 2.10, found {found} in {sys.prefix}; "
    assert done.stderr.splitlines() == [line + "run: pip install 'torch>=2.10'"]


def test_oldest_versions_are_those_of_pyproject():
    """setup.py's checks, CMake's and what an isolated build installs are one set of numbers."""
    pyproject = (ROOT / "pyproject.toml").read_text()
    setup, cmake = (ROOT / "setup.py").read_text(), (ROOT / "CMakeLists.txt").read_text()
    (requires,) = re.findall(r"^requires = \[(.*)\]", pyproject, re.MULTILINE)
    oldest = dict(re.findall(r'"(\w+)>=([\d.]+)"', requires))
    assert f'OLDEST_TORCH = "{oldest["torch"]}"' in setup
    assert f'("ninja", "{oldest["ninja"]}")' in setup
    assert f"cmake_minimum_required(VERSION {oldest['cmake']})" in cmake
