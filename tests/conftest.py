"""Settings of every test process."""

import hashlib
import os

from helpers.paths import ROOT

import sprout_fast

# inductor caches compiled graphs by what calls the ops, not by their schemas: graphs of another
# build of the library must not be found.
_libraries = sorted((ROOT / "sprout_fast" / "lib").glob("*.so"))
_digest = hashlib.sha256(b"".join(library.read_bytes() for library in _libraries)).hexdigest()
_cache = ROOT / "build" / "inductor" / f"{sprout_fast.__version__}-{_digest[:12]}"
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_cache))
