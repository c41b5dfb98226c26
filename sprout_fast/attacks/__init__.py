"""Adversarial attacks on models that expect images in [0, 1].

Each attack is a function ``attack(model, images, labels, *, generator=None, seed=0, **options)``
that returns images, in a module of its own. ``@ATTACKS.register("name")`` adds it to
:data:`ATTACKS`, so a new attack is a new file in this folder. :class:`Attack` binds one to a model
and its options.
"""

from sprout_fast._lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__)
