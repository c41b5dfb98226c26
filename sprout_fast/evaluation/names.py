"""Names of protocols and norms. Command lines need them typed, without importing torch."""

from __future__ import annotations

from typing import Literal

ProtocolName = Literal[
    "strong", "plus", "paper", "audit", "rand", "corruptions", "autoattack", "all"
]
NormName = Literal["linf", "l2", "l1"]
AutoAttackVersion = Literal["standard", "plus", "rand"]
