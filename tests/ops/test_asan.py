"""The op tests on a CPU library built with AddressSanitizer, for every instruction set.

This is a selection; ``make asan`` runs all of them, with UndefinedBehaviorSanitizer.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig

import pytest
from helpers.isa import skip_unless_usable
from helpers.paths import ROOT
from simt.build import sanitizer_environment

pytestmark = pytest.mark.long

EVERYTHING = os.environ.get("SPROUT_FAST_ASAN") == "all"
SANITIZERS = "address,undefined" if EVERYTHING else "address"
BUILD = ROOT / "build" / f"asan-{SANITIZERS}"
OPS = [
    "gaussian_mixup",
    "sprout_loss",
    "sample_mixup",
    "log_gamma",
    "dirichlet",
    "generalized_cross_entropy",
    "meter_step",
    "pgd_step",
    "philox",
]
# torch.compile starts compilers, which fail with libasan preloaded.
SELECTED = "not compiles and not opcheck"
if not EVERYTHING:  # the fuzz tests, and others with larger sizes or unusual memory layouts
    SELECTED += " and (fuzz or layouts or threads or ranks or wrong or zero or shared)"
# The sanitizers write to file descriptor 2 and exit, so pytest must not capture it.
RUN = """
import sys, pytest, sprout_fast
print(sprout_fast.__file__)
sys.exit(pytest.main(["-x", "--capture=sys", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout[-10000:] + done.stderr[-10000:]
    return done.stdout


@pytest.fixture(scope="module")
def package():
    """Return a package of the same Python files and an instrumented library."""
    env = os.environ | {"PATH": sysconfig.get_path("scripts") + os.pathsep + os.environ["PATH"]}
    flags = f"-fsanitize={SANITIZERS} -fno-sanitize-recover=undefined -O1 -g1"
    options = [f"-DPython_EXECUTABLE={sys.executable}", f"-DCMAKE_CXX_FLAGS={flags}"]
    # Without a build type, whose -O3 would follow -O1 and compile four times as long.
    options.append("-DCMAKE_BUILD_TYPE=None")
    run("cmake", "-G", "Ninja", "-S", ROOT, "-B", BUILD / "cmake", *options, env=env)
    run("cmake", "--build", BUILD / "cmake", env=env)
    folder = BUILD / "sprout_fast"
    shutil.rmtree(folder, ignore_errors=True)
    built = shutil.ignore_patterns("*.so", "lib", "__pycache__")
    shutil.copytree(ROOT / "sprout_fast", folder, ignore=built)
    for component in ([], ["--component", "python"]):
        run("cmake", "--install", BUILD / "cmake", "--prefix", folder, *component, env=env)
    return folder


@pytest.mark.parametrize("isa", ["avx512", "avx2", "portable"])
def test_no_errors(package, isa):
    skip_unless_usable(isa)
    assert "__asan_report_store" in run("nm", "-D", package / "lib" / "libsprout_fast.so")
    tests = [ROOT / "tests" / "ops" / f"test_{name}.py" for name in [*OPS, "fuzz"]]
    env = os.environ | sanitizer_environment()
    env |= {"SPROUT_FAST_ISA": isa, "SPROUT_FAST_FUZZ": "ci" if EVERYTHING else "short"}
    out = run(sys.executable, "-c", RUN, *tests, "-k", SELECTED, cwd=package.parent, env=env)
    assert out.splitlines()[0] == str(package / "__init__.py")
    assert re.search(r"^\d+ passed", out, re.MULTILINE), out
