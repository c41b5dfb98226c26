"""The ops again in plain PyTorch: slow, obvious, and on the same random draws.

What the tests compare with, what the benchmarks time against, and the place to read what an op
does. Never a fallback: it is asked for by name.
"""

from sprout_fast.reference.dirichlet import dirichlet
from sprout_fast.reference.gamma import log_gamma_gradient
from sprout_fast.reference.gaussian_mixup import gaussian_mixup
from sprout_fast.reference.generalized_cross_entropy import generalized_cross_entropy
from sprout_fast.reference.log_gamma import log_gamma
from sprout_fast.reference.pgd_step import pgd_step_
from sprout_fast.reference.philox import philox_words
from sprout_fast.reference.sample_mixup import sample_mixup
from sprout_fast.reference.sprout_loss import sprout_loss

__all__ = [
    "dirichlet",
    "sample_mixup",
    "gaussian_mixup",
    "generalized_cross_entropy",
    "log_gamma",
    "log_gamma_gradient",
    "pgd_step_",
    "philox_words",
    "sprout_loss",
]
