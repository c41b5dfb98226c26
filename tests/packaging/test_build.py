"""The build: what setup.py chooses and refuses, and what the compiled libraries hold."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.command import run
from helpers.isa import skip_unless_usable
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


def objects_of(isa):
    """The kernels compiled for an instruction set, of which an x86-64 build has two."""
    if isa not in sprout_fast.build_info()["cpu_isas"]:
        pytest.skip(f"this build has no {isa} kernels")
    folder = ROOT / "build" / f"cmake-torch{torch.__version__}"
    objects = sorted(folder.glob(f"CMakeFiles/sprout_kernels_{isa}.dir/**/*.o"))
    assert objects, folder
    return objects


@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_objects_hold_no_code_for_others(isa):
    """No weak symbol: the linker could keep its code for machines without the instruction set."""
    for file in objects_of(isa):
        weak = [line for line in run("nm", file).splitlines() if " W " in line or " V " in line]
        # The reference to the personality routine of C++ exceptions is data without instructions.
        assert not [line for line in weak if "__gxx_personality" not in line], file


# GCC 12 compiles ``condition ? x : load`` to a masked load, under a wrong mask with
# -fno-trapping-math. (Found by tests/simt: sprout_loss with a beta of 0.) If one turns up, load
# first, then select.


def test_avx2_objects_hold_no_masked_loads():
    for file in objects_of("avx2"):
        code = run("objdump", "-d", "--no-show-raw-insn", file)
        assert "maskmov" not in code, file


def masked_loads(command, folder):
    """The vectorizer's masked loads in what ``command`` compiles.

    With AVX-512 the instruction does not tell: GCC also merges an ordinary load and a select.
    """
    words = shlex.split(command)
    words[words.index("-o") + 1] = "/dev/null"
    code = run(*words, "-fdump-tree-optimized=/dev/stdout", cwd=folder)
    assert ";; Function" in code
    return [line for line in code.splitlines() if ".MASK_LOAD" in line]


def test_avx512_kernels_compile_to_no_masked_loads(tmp_path):
    folder = objects_of("avx512")[0].parents[5]
    entries = json.loads((folder / "compile_commands.json").read_text())
    commands = [e["command"] for e in entries if "SPROUT_ISA=avx512" in e["command"]]
    assert len(commands) == len(objects_of("avx512"))
    if not sprout_fast.build_info()["compiler"].startswith("GNU"):
        pytest.skip("only GCC prints its intermediate code")
    for command in commands:
        assert not masked_loads(command, folder), command
    planted = tmp_path / "planted.cpp"
    planted.write_text(
        "float sum(const int* key, const float* x) { float s = 0;\n"
        "for (int k = 0; k < 64; ++k) s += key[k] != 0 ? x[k] : 0.0f; return s; }"
    )
    source = next(word for word in shlex.split(commands[0]) if word.endswith("_kernel.cpp"))
    planted_command = commands[0].replace(source, str(planted)) + " -ffast-math"
    assert masked_loads(planted_command, folder)


# Every dtype, layout and region of the gradient in a few seconds; `make asan` runs all.
SELECTED = (
    "against_mpmath or float64 or concentrations_zero or test_dtypes or layouts or of_log_gamma"
)


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_kernels_of_every_instruction_set_agree(isa):
    """Part of the op tests on the same source for another instruction set, in its own process."""
    skip_unless_usable(isa)
    code = (
        "import sys, pytest, sprout_fast\n"
        "print(sprout_fast.build_info()['cpu_isa'], flush=True)\n"
        "sys.exit(pytest.main(['-p', 'no:cacheprovider', *sys.argv[1:]]))"
    )
    ops = ["dirichlet", "gaussian_mixup", "generalized_cross_entropy", "log_gamma", "meter_step"]
    tests = [ROOT / "tests" / "ops" / f"test_{op}.py" for op in [*ops, "pgd_step", "sprout_loss"]]
    env = os.environ | {"SPROUT_FAST_ISA": isa}
    out = run(sys.executable, "-c", code, *tests, "-k", SELECTED, cwd=ROOT, env=env)
    assert out.splitlines()[0] == isa
    assert int(re.search(r"^(\d+) passed", out, re.MULTILINE)[1]) > 60


def test_avx512_gives_the_bits_of_avx2():
    """Wider vectors change no result: the same operations, fused alike, and sums in 16 lanes."""
    code = (
        "import hashlib, sprout_fast, torch\n"
        "torch.manual_seed(0)\n"
        "state = torch.tensor([1, 2, 0])\n"
        "x = torch.randint(256, (3, 3, 33, 31), dtype=torch.uint8)\n"
        "partner, lam = torch.tensor([1, 2, 0]), torch.tensor([0.3])\n"
        "found = [sprout_fast.gaussian_mixup(x, partner, lam, state, dtype=d)\n"
        "         for d in (torch.float32, torch.bfloat16, torch.float16)]\n"
        "for classes in (10, 700):\n"
        "    a = (3 * torch.rand(20, classes)).requires_grad_()\n"
        "    logits = torch.randn(20, classes).requires_grad_()\n"
        "    labels = torch.arange(20) % classes\n"
        "    outputs = [sprout_fast.log_gamma(a, state), sprout_fast.dirichlet(a, state)]\n"
        "    for beta_grad in ('implicit', 'expected'):\n"
        "        outputs.append(sprout_fast.sprout_loss(logits, labels, None, None, a[0], state,\n"
        "                                               beta_grad=beta_grad))\n"
        "    for out in outputs:\n"
        "        grads = torch.autograd.grad(out, [a, logits], torch.rand(out.shape),\n"
        "                                    allow_unused=True)\n"
        "        found += [out.detach(), *(g for g in grads if g is not None)]\n"
        "data = b''.join(t.reshape(-1).view(torch.uint8).numpy().tobytes() for t in found)\n"
        "print(len(found), hashlib.sha256(data).hexdigest())"
    )
    results = set()
    for isa in ("avx2", "avx512"):
        skip_unless_usable(isa)
        env = os.environ | {"SPROUT_FAST_ISA": isa}
        results.add(run(sys.executable, "-c", code, cwd=ROOT, env=env))
    assert len(results) == 1 and next(iter(results)).startswith("23 ")


def test_instruction_set_that_does_not_exist_is_an_error():
    code = (
        "import sprout_fast, torch\n"
        "try: sprout_fast.log_gamma(torch.ones(2), torch.zeros(3).long())\n"
        "except RuntimeError as error: print(error)\n"
        "sprout_fast.build_info()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env=os.environ | {"SPROUT_FAST_ISA": "avx1024"}, capture_output=True, text=True,
    )  # fmt: skip
    message = "SPROUT_FAST_ISA must be one of (.*, )?portable on this machine, got 'avx1024'"
    assert re.search(message, done.stdout), done.stdout + done.stderr
    assert re.search(message, done.stderr.splitlines()[-1])


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
        code = f"{SETUP}print(s['default_archs']({str(nvcc)!r}))"
        out = run(sys.executable, "-c", code, cwd=ROOT)
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
        ("80-real,86-real,89-real,90-real,100-real,120", 75, False),
        ("80-real,86-real,89-real,90-real,100-real,120", 89, True),
        ("80-real,86-real,89-real,90-real,100-real,120", 121, True),
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
