"""What a protocol is: a list of measurements for a setting."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from sprout_fast.errors import UserError
from sprout_fast.evaluation.measurements import Measurement

SMALL_IMAGE = 64  # pixels a side, up to which images count as CIFAR's kind, above as ImageNet's


@dataclass(frozen=True)
class Setting:
    """For what a protocol is made.

    Args:
        norm, eps: the ball of the verdict; the paper's protocol has its own eps where norm is
            "linf".
        num_classes: K.
        image_size: the longer side of the images in pixels.
        scale: multiplies every attack's steps, restarts and queries, in (0,1]; 1 is the budget
            that the protocol's source has.
    """

    norm: str = "linf"
    eps: float = 8 / 255
    num_classes: int = 10
    image_size: int = 32
    scale: float = 1.0

    def scaled(self, count: int, least: int = 1) -> int:
        """``count`` times the scale, at least ``least`` or count itself where that is less."""
        return max(round(count * self.scale), min(least, count))


Protocol = Callable[[Setting], list[Measurement]]
PROTOCOLS: dict[str, Protocol] = {}


def register(name: str) -> Callable[[Protocol], Protocol]:
    """Enter a function into ``PROTOCOLS``."""

    def enter(function: Protocol) -> Protocol:
        PROTOCOLS[name] = function
        return function

    return enter


def protocol_of(name: str) -> Protocol:
    """``PROTOCOLS[name]``, or a UserError with the nearest name."""
    if name not in PROTOCOLS:
        close = difflib.get_close_matches(name, PROTOCOLS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"protocol: got {name!r}, takes one of {', '.join(PROTOCOLS)}{hint}")
    return PROTOCOLS[name]
