"""Settings of every test process."""

import hashlib
import os
import signal
from collections.abc import Iterator

import pytest

# pytest-xdist's processes, and the programs that they start, share the processor: with a thread per
# core in each, most time is spent waiting for threads. Tests of threads set their number.
if processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    threads = max(1, (os.cpu_count() or 1) // processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))

# A shell without job control starts what it puts into the background with SIGINT ignored.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import torch  # noqa: E402
from helpers.paths import ROOT  # noqa: E402

import sprout_fast  # noqa: E402

# inductor caches compiled graphs by what calls the ops, not by their schemas: graphs of another
# build of the library must not be found.
_libraries = sorted((ROOT / "sprout_fast" / "lib").glob("*.so"))
_digest = hashlib.sha256(b"".join(library.read_bytes() for library in _libraries)).hexdigest()
_cache = ROOT / "build" / "inductor" / f"{sprout_fast.__version__}-{_digest[:12]}"
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_cache))


def _settings_of_the_process() -> dict[str, object]:
    return {
        "torch.backends.cudnn.benchmark": torch.backends.cudnn.benchmark,
        "torch.backends.cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
        "torch.backends.cuda.matmul.allow_tf32": torch.backends.cuda.matmul.allow_tf32,
        "torch.are_deterministic_algorithms_enabled": torch.are_deterministic_algorithms_enabled(),
        "torch.get_default_dtype": torch.get_default_dtype(),
        "torch.get_num_threads": torch.get_num_threads(),
        "torch.is_grad_enabled": torch.is_grad_enabled(),
        "torch.distributed.is_initialized": torch.distributed.is_initialized(),
        "handler of SIGINT": signal.getsignal(signal.SIGINT),
        "handler of SIGTERM": signal.getsignal(signal.SIGTERM),
        "working directory": os.getcwd(),
    }


def _settings_stay() -> Iterator[None]:
    before = _settings_of_the_process()
    yield
    assert _settings_of_the_process() == before


@pytest.fixture(autouse=True)
def settings_of_the_process_stay() -> Iterator[None]:
    """Fail the test that leaves one of the process's settings changed, not a later one."""
    yield from _settings_stay()


@pytest.fixture(autouse=True, scope="module")
def settings_of_the_process_stay_after_a_module() -> Iterator[None]:
    """The same for what fixtures of a whole module change."""
    yield from _settings_stay()
