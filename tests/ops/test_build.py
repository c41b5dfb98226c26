"""The build: its choices, its artifacts, and the wheel with a CPU-only torch."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import torch
from helpers.paths import ROOT

import sprout_fast

PACKAGE = Path(sprout_fast.__file__).parent

# PATH of a machine without a CUDA toolkit.
BARE_PATH = os.pathsep.join([sysconfig.get_path("scripts"), "/usr/bin", "/bin"])

USES_THE_OPS = """
import torch, sprout_fast, sprout_fast.reference as reference
assert "torchvision" not in __import__("sys").modules
state = torch.tensor([1, 2, 3])
images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
partner, lam = sprout_fast.sample_mixup(4, state)
mixed = sprout_fast.gaussian_mixup(images, partner, lam, state)
expected = reference.gaussian_mixup(images, partner, lam, state)
torch.testing.assert_close(mixed, expected, rtol=0, atol=2e-6)
logits, labels = torch.randn(4, 5, requires_grad=True), torch.tensor([0, 1, 2, 3])
target = (labels, labels[partner], lam)
loss = sprout_fast.sprout_loss(logits, *target, torch.ones(5), state)
loss.backward()
expected = reference.sprout_loss(logits.detach(), *target, torch.ones(5), state)
torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
print("works with torch", torch.__version__, sprout_fast.build_info()["cuda_loaded"])
"""


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_build_info():
    info = sprout_fast.build_info()
    assert info["version"] == sprout_fast.__version__
    assert "portable" in info["cpu_isas"] and info["cpu_isa"] in info["cpu_isas"]
    built_with_cuda = (PACKAGE / "lib" / "libsprout_fast_cuda.so").exists()
    assert (info["cuda"] is not None) == built_with_cuda
    assert info["cuda_loaded"] == (built_with_cuda and torch.version.cuda is not None)


def test_libraries_need_the_stable_abi_only():
    """No C++ symbol of ATen or c10 is used, only the C shims of torch."""
    for library in (PACKAGE / "lib").glob("*.so"):
        symbols = run("nm", "-D", "--undefined-only", "-C", library)
        assert "aoti_torch" in symbols
        assert not re.findall(r"U ((?:at|c10|torch)::.*)", symbols), library


def avx2_objects():
    """Return the object files of the AVX2 kernels; an x86-64 build has at least one."""
    if "avx2" not in sprout_fast.build_info()["cpu_isas"]:
        pytest.skip("this build has no AVX2 kernels")
    folder = ROOT / "build" / f"cmake-torch{torch.__version__}"
    objects = sorted(folder.glob("CMakeFiles/sprout_kernels_avx2.dir/**/*.o"))
    assert objects, folder
    return objects


def test_avx2_objects_have_no_weak_symbols():
    """The linker could use their AVX2 code on machines without AVX2."""
    for file in avx2_objects():
        weak = [line for line in run("nm", file).splitlines() if " W " in line or " V " in line]
        # The reference to the personality routine of C++ exceptions is data.
        assert not [line for line in weak if "__gxx_personality" not in line], file


def test_avx2_objects_have_no_masked_loads():
    """GCC 12 compiles ``condition ? x : load`` to such a load, with a wrong mask for
    -fno-trapping-math (found by tests/simt: sprout_loss with beta = 0). Load first, then select.
    """
    for file in avx2_objects():
        code = run("objdump", "-d", "--no-show-raw-insn", file)
        assert "maskmov" not in code, file


# Every dtype, layout and region of the gradient, in a few seconds; `make asan` runs all.
PORTABLE = (
    "against_mpmath or float64 or concentrations_zero or test_dtypes or layouts or of_log_gamma"
)


def test_portable_kernels_agree():
    """Run part of the op tests in a separate process without AVX2."""
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


def test_import_without_the_extension(tmp_path):
    """Without the extension, importing raises an ImportError with the build command."""
    (tmp_path / "sprout_fast").mkdir()
    for file in PACKAGE.glob("*.py"):
        (tmp_path / "sprout_fast" / file.name).write_text(file.read_text())
    # -S: without the finder of an editable install, which would find the real _C.
    code = f"import sys; sys.path.append({sysconfig.get_path('purelib')!r}); import sprout_fast"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, env={}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "ImportError: sprout_fast's compiled extension is missing" in done.stderr
    assert "pip install --no-build-isolation -e ." in done.stderr


def test_no_gpu_and_no_toolkit():
    run(sys.executable, "-c", USES_THE_OPS, env={"PATH": BARE_PATH})


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from the existing build folder, so that nothing is recompiled."""
    folder = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w", folder,
        ROOT
    )  # fmt: skip
    (file,) = folder.glob("*.whl")
    return file


def test_wheel_contents(wheel):
    assert "-cp310-abi3-" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    native = {name for name in names if name.endswith(".so")}
    expected = {"sprout_fast/_C.abi3.so", "sprout_fast/lib/libsprout_fast.so"}
    if sprout_fast.build_info()["cuda"]:
        expected.add("sprout_fast/lib/libsprout_fast_cuda.so")
    assert native == expected
    assert "sprout_fast/training/loop.py" in names
    assert not [name for name in names if name.startswith(("tests", "tools", "csrc"))]


def test_wheel_uses_the_limited_api_only(wheel):
    """abi3audit: all symbols used from Python are in the stable ABI of 3.10."""
    report = run(sys.executable, "-m", "abi3audit", "--strict", "--report", wheel)
    (audit,) = json.loads(report)["specs"].values()
    results = {library["name"]: library["result"] for library in audit["wheel"]}
    assert {"_C.abi3.so", "libsprout_fast.so"} <= set(results)
    for result in results.values():
        assert result["is_abi3"] and result["is_abi3_baseline_compatible"], results
        assert result["baseline"] == "3.10"


@pytest.fixture(scope="module")
def other_python(wheel, tmp_path_factory):
    """Return a Python with the wheel and with torch 2.13.0, another than it was built with."""
    folder = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    quiet = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(python, *quiet, "torch==2.13.0", "numpy")
    run(python, *quiet, "--no-deps", wheel)
    return python


def test_wheel_with_another_torch(other_python, tmp_path):
    out = run(other_python, "-c", USES_THE_OPS, cwd=tmp_path, env={"PATH": BARE_PATH})
    assert "works with torch 2.13.0" in out


def test_cpp_project_with_the_wheel(other_python, tmp_path):
    """find_package finds the libraries in the installed wheel, and they work there."""
    code = "import sprout_fast; print(sprout_fast.cmake_prefix_path)"
    prefix = run(other_python, "-c", code, cwd=tmp_path).strip()
    options = [f"-DCMAKE_PREFIX_PATH={prefix}", f"-DPython_EXECUTABLE={other_python}"]
    env = {"PATH": BARE_PATH}
    run("cmake", "-G", "Ninja", "-S", ROOT / "tests" / "cpp", "-B", tmp_path, *options, env=env)
    run("cmake", "--build", tmp_path, env=env)
    assert len(run(tmp_path / "sprout_loss_example", env={}).split()) == 4


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
