"""Puts tools/ on ``sys.path``, so that the programs in this folder can import its packages."""

import sys
from pathlib import Path

TOOLS = str(Path(__file__).resolve().parents[2] / "tools")
if TOOLS not in sys.path:  # pytest has it there already
    sys.path.insert(0, TOOLS)
