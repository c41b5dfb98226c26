"""Paths in the checkout, and the path of CIFAR-10's images outside of it."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"
# The tar of CIFAR-10 as JPEG files; tests that need it are skipped where it is not there.
CIFAR_TAR = Path(
    os.environ.get("SPROUT_FAST_CIFAR", ROOT.parent / "shared" / "data" / "cifar10_images.tar")
)
