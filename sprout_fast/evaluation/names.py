"""Names of protocols and norms. Command lines need them typed, without importing torch."""

from __future__ import annotations

from typing import Literal

ProtocolName = Literal["strong", "paper", "audit", "rand", "autoattack", "all"]
NormName = Literal["linf", "l2"]
