"""SPROUT as two modules for any training loop: a mixer for the inputs and a loss for the labels."""

from sprout_fast.nn.loss import SproutLoss
from sprout_fast.nn.mixup import MixupTarget, SproutMixup

__all__ = ["MixupTarget", "SproutLoss", "SproutMixup"]
