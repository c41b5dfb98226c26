"""Everything: the paper's protocol, the strong one and the audit, side by side."""

from __future__ import annotations

from sprout_fast.evaluation.measurements import Measurement
from sprout_fast.evaluation.protocols.base import Setting, protocol_of, register


@register("all")
def everything(setting: Setting) -> list[Measurement]:
    found = {}
    for name in ("strong", "audit", "paper"):
        for measurement in protocol_of(name)(setting):
            found.setdefault(measurement.name, measurement)
    return list(found.values())
