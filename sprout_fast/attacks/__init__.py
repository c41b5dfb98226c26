"""Adversarial attacks on models that expect images in [0, 1].

Each attack is a function ``attack(model, images, labels, *, generator=None, seed=0, **options)``
that returns images, in a module of its own. ``@ATTACKS.register("name")`` adds it to
:data:`ATTACKS`, so a new attack is a new file in this folder. :class:`Attack` binds one to a model
and its options.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sprout_fast._lazy import attach as _attach

if TYPE_CHECKING:
    from sprout_fast.attacks.balls import BALLS as BALLS
    from sprout_fast.attacks.base import ATTACKS as ATTACKS
    from sprout_fast.attacks.base import Attack as Attack
    from sprout_fast.attacks.losses import LOSSES as LOSSES
else:
    __getattr__, __dir__, __all__ = _attach(
        __name__,
        {"balls": ["BALLS"], "base": ["ATTACKS", "Attack"], "losses": ["LOSSES"]},
    )
