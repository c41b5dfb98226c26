"""SPROUT as two modules for any training loop: one for the images and one for the labels."""

from sprout_fast.nn.loss import SproutLoss
from sprout_fast.nn.mixup import MixupTarget, SproutMixup

__all__ = ["MixupTarget", "SproutLoss", "SproutMixup"]
