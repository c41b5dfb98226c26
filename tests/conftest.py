"""Settings of every test process."""

import hashlib
import os
import signal

# pytest-xdist's processes, and the programs that they start, share the processor: with a thread per
# core in each, most time is spent waiting for threads. Tests of threads set their number.
if processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    threads = max(1, (os.cpu_count() or 1) // processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))

# A shell without job control starts what it puts into the background with SIGINT ignored.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from helpers.paths import ROOT  # noqa: E402

import sprout_fast  # noqa: E402

# inductor caches compiled graphs by what calls the ops, not by their schemas: graphs of another
# build of the library must not be found.
_libraries = sorted((ROOT / "sprout_fast" / "lib").glob("*.so"))
_digest = hashlib.sha256(b"".join(library.read_bytes() for library in _libraries)).hexdigest()
_cache = ROOT / "build" / "inductor" / f"{sprout_fast.__version__}-{_digest[:12]}"
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_cache))
