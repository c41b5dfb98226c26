"""The ops in plain PyTorch: slow, obvious, and on the same random draws.

Tests compare the ops with them, and they are the shortest description of what an op computes. They
are never used as a fallback.
"""

from sprout_fast.reference.dirichlet import dirichlet
from sprout_fast.reference.gaussian_mixup import gaussian_mixup
from sprout_fast.reference.generalized_cross_entropy import generalized_cross_entropy
from sprout_fast.reference.log_gamma import log_gamma, log_gamma_gradient
from sprout_fast.reference.meter_step import meter_step_
from sprout_fast.reference.pgd_step import pgd_step_
from sprout_fast.reference.philox import philox_words
from sprout_fast.reference.sample_mixup import sample_mixup
from sprout_fast.reference.sprout_loss import sprout_loss

__all__ = [
    "dirichlet",
    "gaussian_mixup",
    "generalized_cross_entropy",
    "log_gamma",
    "log_gamma_gradient",
    "meter_step_",
    "pgd_step_",
    "philox_words",
    "sample_mixup",
    "sprout_loss",
]
