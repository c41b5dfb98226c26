"""Lazy imports: no torch before it is needed, and the ops registered wherever torch is."""

from __future__ import annotations

import ast
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sprout_fast
from sprout_fast import _lazy

PACKAGE = Path(sprout_fast.__file__).parent

REGISTERED = """
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
log_gamma, state = torch.ops.sprout_fast.log_gamma, torch.tensor([1, 2, 0])
concentration = torch.ones(3, requires_grad=True)
out = log_gamma(concentration, state)
(out[0] if isinstance(out, tuple) else out).sum().backward()
assert concentration.grad.abs().sum() > 0
with FakeTensorMode() as mode:
    log_gamma(mode.from_tensor(concentration), mode.from_tensor(state))
print("registered")
"""


def python(*arguments, fails=False, **options):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, **options
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_import_does_not_import_torch():
    code = "import sys, sprout_fast, sprout_fast.errors; dir(sprout_fast); sprout_fast.__version__"
    code += "; sprout_fast.cmake_prefix_path; print('torch' in sys.modules)"
    assert python("-c", code) == "False\n"


@pytest.mark.parametrize(
    "first",
    [
        "import sprout_fast, torch",
        "import torch, sprout_fast",
        "import sprout_fast; sprout_fast.build_info()",
        "from sprout_fast import PhiloxState",
        "import sprout_fast.random",
        "import sprout_fast.ops.dirichlet",
    ],
)
def test_ops_are_registered(first):
    assert python("-W", "error", "-c", first + REGISTERED).endswith("registered\n")


def test_ops_import_torch_in_their_own_package_only():
    """Elsewhere, torch's import would import the ops in the middle of a module that they need."""
    code = """
import json, sys, sprout_fast.ops
needed = [name for name in sys.modules if name.startswith("sprout_fast.")]
print(json.dumps([name for name in needed if not name.startswith("sprout_fast.ops")]))
"""
    needed = ast.literal_eval(python("-c", code))
    needed.remove("sprout_fast._C")
    assert "sprout_fast._library" in needed
    code = "import sys, importlib; sys.modules['torch'] = None\n"
    python("-c", code + "for name in sys.argv[1:]: importlib.import_module(name)", *needed)


def test_compiled_code_may_be_the_first_to_use_a_name():
    code = """
import sprout_fast, torch
state = torch.tensor([1, 2, 0])
draw = torch.compile(lambda c: sprout_fast.dirichlet(c, state), fullgraph=True, backend="eager")
assert torch.equal(draw(torch.ones(3)), sprout_fast.dirichlet(torch.ones(3), state))
"""
    python("-c", code)


# The rest needs a package named torch, not PyTorch.


@pytest.fixture
def stub(tmp_path):
    """Run code with modules ``lazy`` (sprout_fast._lazy), ``torch`` and ``ops``."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("print('torch')\ndone = True\n")
    (tmp_path / "ops.py").write_text("import torch\nassert torch.done\nprint('ops')\n")
    shutil.copy(_lazy.__file__, tmp_path / "lazy.py")

    def run(code):
        code = f"import lazy; lazy.import_after_torch('ops')\n{code}"
        (tmp_path / "main.py").write_text(code)
        return python("-S", "main.py", cwd=tmp_path).splitlines()  # -S: PyTorch is not there

    run.folder = tmp_path
    return run


def test_stub(stub):
    assert stub("") == []
    assert stub("import torch") == ["torch", "ops"]
    assert stub("import torch, lazy; lazy.import_after_torch('ops')") == ["torch", "ops"]
    assert stub("import ops") == ["torch", "ops"]


def test_torch_may_be_looked_for_before_it_is_imported(stub):
    code = """
import importlib.util
assert importlib.util.find_spec("torch").loader is not None
assert "print('torch')" in importlib.util.find_spec("torch").loader.get_source("torch")
import torch
"""
    assert stub(code) == ["torch", "ops"]


def test_torch_may_fail_to_import_at_first(stub):
    (stub.folder / "torch" / "__init__.py").write_text(
        "import os\nif 'READY' not in os.environ: raise ImportError('no driver')\ndone = True\n"
    )
    code = """
import os
for ready in (False, True):
    if ready: os.environ["READY"] = "1"
    try:
        import torch
    except ImportError as error:
        print(error)
"""
    assert stub(code) == ["no driver", "ops"]


def test_torch_may_be_missing_at_first(stub):
    (stub.folder / "torch").rename(stub.folder / "hidden")
    code = """
import importlib, os
try:
    import torch
except ModuleNotFoundError as error:
    print(error)
os.rename("hidden", "torch")
importlib.invalidate_caches()
import torch
"""
    assert stub(code) == ["No module named 'torch'", "torch", "ops"]


def test_torch_may_be_blocked(stub):
    assert stub("import sys; sys.modules['torch'] = None; lazy.import_after_torch('ops')") == []


def test_torch_is_left_as_it_was(stub):
    code = """
import sys, torch
assert torch.__spec__.loader is torch.__loader__
print(type(torch.__loader__).__name__)
print([type(finder).__name__ for finder in sys.meta_path if "lazy" in type(finder).__module__])
"""
    assert stub(code) == ["torch", "ops", "SourceFileLoader", "[]"]


def test_another_import_hook_for_torch(stub):
    """One that asks all finders again, as wrapt's and OpenTelemetry's do."""
    code = """
import importlib.util, sys
class Other:
    busy = False
    def find_spec(self, name, path, target=None):
        if name != "torch" or self.busy:
            return None
        self.busy = True
        try:
            return importlib.util.find_spec(name)
        finally:
            self.busy = False
sys.meta_path.insert(PLACE, Other())
import torch
"""
    for place in ("0", "1"):
        assert stub(code.replace("PLACE", place)) == ["torch", "ops"]


def test_threads_that_import_both(stub):
    (stub.folder / "torch" / "__init__.py").write_text(
        "import time\ntime.sleep(0.1)\ndone = True\nprint('torch')\n"
    )
    code = """
import importlib, threading
names = ["torch", "ops"] * 4
threads = [threading.Thread(target=importlib.import_module, args=[name]) for name in names]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    assert stub(code) == ["torch", "ops"]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_worker_processes(stub, method):
    (stub.folder / "job.py").write_text(
        "import lazy\nlazy.import_after_torch('ops')\ndef work(): import torch\n"
    )
    code = f"""
import multiprocessing, job
if __name__ == "__main__":
    worker = multiprocessing.get_context("{method}").Process(target=job.work)
    worker.start()
    worker.join()
    assert worker.exitcode == 0
"""
    assert stub(code) == ["torch", "ops"]


def test_under_pytest(stub):
    (stub.folder / "conftest.py").write_text("import lazy\nlazy.import_after_torch('ops')\n")
    (stub.folder / "test_it.py").write_text(
        "import sys\ndef test_it():\n    import torch\n    assert 'ops' in sys.modules\n"
    )
    out = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py", cwd=stub.folder)
    assert "1 passed" in out


def test_ops_that_do_not_load_leave_torch_usable(stub):
    (stub.folder / "ops.py").write_text("raise ImportError('build it with ...')\n")
    out = stub("import torch\ntry: import ops\nexcept ImportError: print(torch.done)")
    assert [line for line in out if "build it" in line] == [
        f"{stub.folder}/main.py:2: RuntimeWarning: build it with ..."
    ]
    assert {"torch", "True"} <= set(out)


@pytest.fixture
def copied_package(tmp_path):
    """The package without its libraries."""
    ignored = shutil.ignore_patterns("*.so", "lib", "__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "sprout_fast", ignore=ignored)
    return tmp_path


def test_missing_extension(copied_package):
    """An ImportError with the build command, for which torch is not needed."""
    # -S: without the finder of an editable install, which would find the real _C.
    out = python("-S", "-c", "import sprout_fast", cwd=copied_package, env={}, fails=True)
    assert "ImportError: sprout_fast's compiled extension is missing or does not load" in out
    assert "pip install --no-build-isolation -e ." in out


def test_extension_that_does_not_load(copied_package):
    (copied_package / "sprout_fast" / "_C.abi3.so").write_text("not a library")
    env = os.environ | {"PYTHONPATH": str(copied_package)}
    code = """
import warnings, sprout_fast
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch
torch.ones(1)
print(sum("make build" in str(warning.message) for warning in caught))
try:
    sprout_fast.dirichlet
except ImportError as error:
    print(error)
"""
    out = python("-c", code, cwd=copied_package, env=env).splitlines()
    assert out[0] == "1" and "make build" in out[1] and "_C.abi3.so" in out[1]
    out = python("-c", "import torch, sprout_fast", cwd=copied_package, env=env, fails=True)
    assert "ImportError: sprout_fast's compiled extension" in out


# The package's own names.


def test_every_public_name_resolves():
    assert set(sprout_fast.__all__) <= set(dir(sprout_fast))
    for name in sprout_fast.__all__:
        assert getattr(sprout_fast, name) is getattr(sprout_fast, name)
    namespace: dict[str, object] = {}
    exec("from sprout_fast import *", namespace)
    assert set(sprout_fast.__all__) <= set(namespace)


def test_unknown_name():
    with pytest.raises(AttributeError, match="module 'sprout_fast' has no attribute 'sprot_loss'"):
        sprout_fast.sprot_loss  # noqa: B018
    assert not hasattr(sprout_fast, "evaluation.evaluate")


@pytest.mark.parametrize(
    "stub_file", sorted(PACKAGE.rglob("__init__.pyi")), ids=lambda f: f.parent.name
)
def test_type_checkers_see_the_same_names(stub_file):
    """What a stub exports to pyright is what its package has, from the module that defines it."""
    package_name = ".".join(stub_file.relative_to(PACKAGE.parent).parent.parts)
    package = importlib.import_module(package_name)
    names = set()
    for node in ast.parse(stub_file.read_text()).body:
        if isinstance(node, ast.AnnAssign):
            assert hasattr(package, ast.unparse(node.target))
            continue
        assert isinstance(node, ast.ImportFrom) and node.level == 1, ast.unparse(node)
        for alias in node.names:
            assert alias.asname == alias.name  # else not an export to pyright
            if node.module is None:
                value = importlib.import_module(f"{package_name}.{alias.name}")
            else:
                value = getattr(
                    importlib.import_module(f"{package_name}.{node.module}"), alias.name
                )
                names.add(alias.name)
            assert getattr(package, alias.name) is value
    assert sorted(names) == package.__all__
    assert names <= set(dir(package))


def test_every_lazy_package_has_a_stub():
    assert len(list(PACKAGE.rglob("__init__.pyi"))) == sum(
        "_lazy" in file.read_text() for file in PACKAGE.rglob("__init__.py")
    )
