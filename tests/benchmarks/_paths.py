"""Puts tools/ and tests/ on ``sys.path``, for the programs in this folder."""

import sys
from pathlib import Path

TESTS = str(Path(__file__).resolve().parents[1])
TOOLS = str(Path(__file__).resolve().parents[2] / "tools")
sys.path[:0] = [path for path in (TOOLS, TESTS) if path not in sys.path]  # pytest's has them
