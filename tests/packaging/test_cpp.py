"""C++ projects: find_package(sprout_fast) and an op called through torch's dispatcher."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from helpers.paths import ROOT

import sprout_fast
from sprout_fast.ops.sprout_loss import SproutLossArguments, sprout_loss_and_grad_beta

# The cmake and ninja of the environment, even if it is not activated.
TOOLS = os.environ | {"PATH": sysconfig.get_path("scripts") + os.pathsep + os.environ["PATH"]}
HAS_CUDA = sprout_fast.build_info()["cuda_loaded"]


def cmake(*arguments, fails=False):
    command = ["cmake", *map(str, arguments)]
    done = subprocess.run(command, env=TOOLS, capture_output=True, text=True)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def configure(source, build, *options, prefix=sprout_fast.cmake_prefix_path, fails=False):
    options = (f"-DCMAKE_PREFIX_PATH={prefix}", f"-DPython_EXECUTABLE={sys.executable}", *options)
    return cmake("-G", "Ninja", "-S", source, "-B", build, *options, fails=fails)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Build tests/cpp with --as-needed, as distributions do whose linkers drop unused libraries."""
    build = tmp_path_factory.mktemp("cpp")
    flags = ["-DCMAKE_EXE_LINKER_FLAGS=-Wl,--as-needed", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror"]
    configure(ROOT / "tests" / "cpp", build, *flags)
    cmake("--build", build)
    return build


@pytest.mark.parametrize("program", ["sprout_loss_example", "sprout_loss_example_cuda"])
def test_program_computes_what_python_computes(programs, program):
    if program.endswith("cuda") and not HAS_CUDA:
        pytest.skip("needs the CUDA library and a CUDA build of torch")
    done = subprocess.run([programs / program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    logits = torch.tensor([[1, -2, 0.5], [0, 3, -1]])
    labels, partner_labels = torch.tensor([0, 2]), torch.tensor([2, 0])
    lam, beta = torch.tensor([0.75]), torch.tensor([0.5, 1, 2])
    loss, grad_beta = sprout_loss_and_grad_beta(
        SproutLossArguments(
            logits, labels, partner_labels, lam, beta, torch.tensor([7, 1, 0]), alpha=0.5, scale=2.0
        )
    )
    printed = torch.tensor(list(map(float, done.stdout.split())))
    assert torch.equal(printed[:4], torch.cat([loss.view(1), grad_beta]))
    # Compiled with other flags than the op's.
    log_gamma = sprout_fast.log_gamma(beta, torch.tensor([7, 1, 0]))
    torch.testing.assert_close(printed[4:], log_gamma, rtol=1e-6, atol=1e-6)


def test_headers_are_complete():
    """Each compiles alone, as the only one that a program includes."""
    include = Path(sprout_fast.cmake_prefix_path) / "include"
    headers = sorted(include.rglob("*.h"))
    assert include / "sprout_fast" / "call_op.h" in headers
    # Those for device code need nvcc.
    headers = [path for path in headers if path.name not in ("device_types.h", "reduce.h")]
    options = ["-I", include, "-I", Path(torch.__file__).parent / "include"]
    command = ["c++", "-std=c++17", "-fsyntax-only", "-x", "c++", *options, *headers]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_install_without_the_python_package(tmp_path):
    """cmake --install of a build folder, for a project that specifies torch instead of a Python."""
    build = ROOT / "build" / f"cmake-torch{torch.__version__}"
    cmake("--install", build, "--prefix", tmp_path / "prefix")
    assert not list((tmp_path / "prefix").rglob("_C*"))
    torch_dir = Path(torch.__file__).parent
    options = [f"-DSPROUT_TORCH_DIR={torch_dir}", "-DCMAKE_DISABLE_FIND_PACKAGE_Python=ON"]
    configure(ROOT / "tests" / "cpp", tmp_path / "build", *options, prefix=tmp_path / "prefix")
    cache = (tmp_path / "build" / "CMakeCache.txt").read_text()
    assert f"sprout_fast_DIR:PATH={tmp_path / 'prefix'}" in cache


def test_versions_and_components(tmp_path):
    major, minor, patch = map(int, sprout_fast.__version__.split("."))
    found = {
        "": True,
        f"{major}.{minor}": True,
        f"{major}.{minor} COMPONENTS cpu": True,
        "COMPONENTS cpu OPTIONAL_COMPONENTS rocm": True,
        "COMPONENTS cpu cuda": HAS_CUDA,
        "COMPONENTS rocm": False,
        f"{major}.{minor + 1}": False,
        f"{major}.{minor}.{patch + 1}": False,
        f"{major + 1}": False,
    }
    lines = [
        f"find_package(sprout_fast {wanted} QUIET)\nmessage(STATUS {i}:${{sprout_fast_FOUND}})\n"
        for i, wanted in enumerate(found)
    ]
    project = "cmake_minimum_required(VERSION 3.26)\nproject(user LANGUAGES CXX)\n"
    (tmp_path / "CMakeLists.txt").write_text(project + "".join(lines))
    output = configure(tmp_path, tmp_path / "build")
    for i, expected in enumerate(found.values()):
        assert f"-- {i}:{int(expected)}\n" in output, output


def test_without_torch(tmp_path):
    output = configure(ROOT / "tests" / "cpp", tmp_path, "-DSPROUT_TORCH_DIR=/nowhere", fails=True)
    assert 'no lib/libtorch_cpu.so in SPROUT_TORCH_DIR ("/nowhere")' in output
