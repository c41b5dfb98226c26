"""The sdist and the wheel as users have them: outside the checkout, in other environments."""

from __future__ import annotations

import json
import os
import re
import sys
import sysconfig
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import torch
from helpers.command import run
from helpers.paths import ROOT

import sprout_fast

# What a machine without a CUDA toolkit has on PATH.
BARE_PATH = os.pathsep.join([sysconfig.get_path("scripts"), "/usr/bin", "/bin"])
# With the checkout on PYTHONPATH, pip would find sprout_fast installed already.
NO_PYTHONPATH = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
QUIET = ("--quiet", "--disable-pip-version-check")
PROGRAMS = ["sprout-evaluate", "sprout-train-cifar", "sprout-train-imagenet", "sprout-verify-data"]

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


def tracked_files():
    if not (ROOT / ".git").exists():
        pytest.skip("compares with the files that git tracks")
    return set(run("git", "ls-files", cwd=ROOT).splitlines())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of the build folder that is there, so that nothing is compiled again."""
    folder = tmp_path_factory.mktemp("wheel")
    run(
        *(sys.executable, "-m", "pip", "wheel", *QUIET, "--no-build-isolation", "--no-deps"),
        *("-w", folder, ROOT),
    )
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", folder, cwd=ROOT)
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope="module")
def unpacked(sdist, tmp_path_factory):
    """The sdist's folder, with no repository around it."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    return root


@pytest.fixture(scope="module")
def wheel_from_sdist(sdist, tmp_path_factory):
    """The wheel that pip builds of the sdist: compiled anew, for the CPU and without optimizing."""
    folder = tmp_path_factory.mktemp("wheel_from_sdist")
    env = os.environ | {"FORCE_CUDA": "0", "CMAKE_BUILD_TYPE": "Debug"}
    run(
        *(sys.executable, "-m", "pip", "wheel", *QUIET, "--no-build-isolation", "--no-deps"),
        *("-w", folder, sdist),
        env=env, cwd=folder,
    )  # fmt: skip
    (file,) = folder.glob("*.whl")
    return file


def test_sdist_holds_the_repository(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if "/" in name}
    missing = tracked_files() - names
    assert not {name for name in missing if not name.startswith(".")}
    built = re.compile(r"\.(so|o|pyc)$|__pycache__|^build/|^sprout_fast/(lib|include)/")
    assert not [name for name in names if built.search(name)]


def test_wheel_contents(wheel):
    assert "-cp310-abi3-" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    native = {name for name in names if name.endswith(".so")}
    expected = {"sprout_fast/_C.abi3.so", "sprout_fast/lib/libsprout_fast.so"}
    if sprout_fast.build_info()["cuda"]:
        expected.add("sprout_fast/lib/libsprout_fast_cuda.so")
    assert native == expected
    assert not [name for name in names if name.startswith(("tests", "tools", "csrc"))]
    headers = {name for name in names if name.startswith("sprout_fast/include/")}
    common = {f"common/{path.name}" for path in (ROOT / "csrc" / "common").glob("*.h")}
    assert headers == {f"sprout_fast/include/sprout_fast/{h}" for h in {"call_op.h", *common}}
    # Every file of the package, and no module that an earlier build left behind.
    package = {name for name in names if name.startswith("sprout_fast/")} - native - headers
    package = {name for name in package if not name.startswith("sprout_fast/lib/cmake/")}
    assert package == {name for name in tracked_files() if name.startswith("sprout_fast/")}


def test_wheel_of_the_sdist_has_the_same_files(wheel, wheel_from_sdist):
    cuda = "sprout_fast/lib/libsprout_fast_cuda.so"
    names = set(zipfile.ZipFile(wheel).namelist()) - {cuda}
    from_sdist = zipfile.ZipFile(wheel_from_sdist).namelist()
    assert {name.replace("-debug.", "-release.") for name in from_sdist} == names


def test_metadata(wheel):
    archive = zipfile.ZipFile(wheel)
    folder = f"sprout_fast-{sprout_fast.__version__}.dist-info"
    metadata = Parser().parsestr(archive.read(f"{folder}/METADATA").decode())
    assert metadata["Version"] == sprout_fast.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["Author"] == "The sprout_fast authors"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Project-URL"] and metadata["Keywords"]
    assert set(metadata.get_all("Provides-Extra", [])) == {
        *("train", "corruptions", "bench", "docs", "dev")
    }
    entry_points = archive.read(f"{folder}/entry_points.txt").decode()
    assert sorted(re.findall(r"^([\w-]+) = ", entry_points, re.MULTILINE)) == PROGRAMS


def test_wheel_uses_the_limited_api_only(wheel):
    """abi3audit: every symbol that is taken from Python is in 3.10's stable ABI."""
    report = run(sys.executable, "-m", "abi3audit", "--strict", "--report", wheel)
    (audit,) = json.loads(report)["specs"].values()
    results = {library["name"]: library["result"] for library in audit["wheel"]}
    assert {"_C.abi3.so", "libsprout_fast.so"} <= set(results)
    for result in results.values():
        assert result["is_abi3"] and result["is_abi3_baseline_compatible"], results
        assert result["baseline"] == "3.10"


def test_wheel_can_be_a_manylinux_wheel(wheel):
    """auditwheel: nothing outside the wheel but torch's libraries and old symbols of the system's.

    Which glibc is needed depends on the building machine: 2.28 in cibuildwheel's image.
    """
    shown = " ".join(run(sys.executable, "-m", "auditwheel", "show", wheel).split())
    assert re.search(r'constrains the platform tag to "manylinux_2_\d+_', shown), shown
    versioned = re.findall(r"(lib\w+(?:\+\+)?\.so\.\d+) with versions", shown)
    assert set(versioned) <= {"libc.so.6", "libgcc_s.so.1", "libm.so.6", "libstdc++.so.6"}


def test_no_gpu_and_no_toolkit():
    run(sys.executable, "-c", USES_THE_OPS, env={"PATH": BARE_PATH})


@pytest.fixture(scope="module")
def other_python(wheel_from_sdist, tmp_path_factory):
    """A bare environment with the sdist's wheel, built with one torch, and another torch."""
    folder = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    run(
        python,
        "-m",
        "pip",
        "install",
        *QUIET,
        "torch==2.13.0",
        "numpy",
        "pytest",
        env=NO_PYTHONPATH,
    )
    run(python, "-m", "pip", "install", *QUIET, "--no-deps", wheel_from_sdist, env=NO_PYTHONPATH)
    return python


def test_wheel_with_another_torch(other_python, tmp_path):
    out = run(other_python, "-c", USES_THE_OPS, cwd=tmp_path, env={"PATH": BARE_PATH})
    assert "works with torch 2.13.0" in out


@pytest.mark.long
def test_op_tests_of_the_sdist_on_its_wheel(other_python, unpacked):
    pytest_program = other_python.with_name("pytest")  # which leaves sprout_fast/ here aside
    env = {"PATH": BARE_PATH}
    tests = ["-p", "no:cacheprovider", "tests/ops/test_pgd_step.py"]
    out = run(pytest_program, *tests, cwd=unpacked, env=env)
    assert int(re.search(r"^(\d+) passed", out, re.MULTILINE)[1]) > 20


def test_cpp_project_with_the_wheel(other_python, tmp_path):
    """find_package finds libraries and headers in the installed wheel."""
    code = "import sprout_fast; print(sprout_fast.cmake_prefix_path)"
    prefix = run(other_python, "-c", code, cwd=tmp_path).strip()
    options = [f"-DCMAKE_PREFIX_PATH={prefix}", f"-DPython_EXECUTABLE={other_python}"]
    env = {"PATH": BARE_PATH}
    run("cmake", "-G", "Ninja", "-S", ROOT / "tests" / "cpp", "-B", tmp_path, *options, env=env)
    run("cmake", "--build", tmp_path, env=env)
    assert len(run(tmp_path / "sprout_loss_example", env={}).split()) == 7


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of programs of an environment with the wheel and what the extra "train" names.

    The packages are those of this environment, but for sprout_fast: a folder that a .pth file adds
    is searched last, and its own .pth files, one of which may name the checkout, are not read.
    (`make wheel-check` installs them anew.)
    """
    if folder := os.environ.get("SPROUT_FAST_PROGRAMS"):
        return Path(folder)
    folder = tmp_path_factory.mktemp("programs")
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", *QUIET, "--no-deps", wheel, env=NO_PYTHONPATH)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run(python, "-c", code, env=NO_PYTHONPATH).strip())
    (packages / "others.pth").write_text(str(Path(torch.__file__).parents[1]))
    return folder / "bin"


def test_programs_come_from_the_wheel(installed, tmp_path):
    code = "import sprout_fast.training.command as m; print(m.__file__)"
    out = run(installed / "python", "-c", code, cwd=tmp_path, env={"PATH": BARE_PATH})
    assert out.startswith(str(installed.parent))


@pytest.mark.parametrize("program", PROGRAMS)
def test_help(installed, tmp_path, program):
    out = run(installed / program, "--help", cwd=tmp_path, env={"PATH": BARE_PATH})
    assert out.startswith(f"usage: {program} ")


def test_train_and_evaluate_outside_the_checkout(installed, tmp_path):
    """Two steps on the sample set, then an evaluation of their checkpoint, from the wheel."""
    env = {"PATH": BARE_PATH, "HOME": str(tmp_path), "OMP_NUM_THREADS": "2"}
    small = ["--arch", "resnet18", "--image-size", "32", "--batch-size", "4", "--workers", "1"]
    steps = ["--max-steps", "2", "--final-attack-images", "2", "--out", "run"]
    run(installed / "sprout-train-imagenet", *small, *steps, cwd=tmp_path, env=env)
    assert (tmp_path / "run" / "last.pt").exists()
    trial = ["--data", "sample_set", "--limit", "4", "--scale", "0.01", "--out", "report"]
    run(installed / "sprout-evaluate", "--checkpoint", "run/last.pt", *trial, cwd=tmp_path, env=env)
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert 0 <= results["verdict"]["robust_accuracy"] <= results["verdict"]["clean_accuracy"] <= 1
    assert (tmp_path / "report" / "report.html").exists()
