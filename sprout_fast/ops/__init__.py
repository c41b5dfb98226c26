"""Ops, one per file: the public function, its fake for ``torch.compile`` and its autograd formula.

Schemas and argument checks are in ``csrc/ops/<op>_call.cpp``, kernels in ``csrc/ops/{cpu,cuda}/``.
"""

from sprout_fast import _library

_library.load()  # the schemas, to which the modules below add fakes and autograd

from sprout_fast.ops.dirichlet import dirichlet
from sprout_fast.ops.gaussian_mixup import gaussian_mixup
from sprout_fast.ops.generalized_cross_entropy import generalized_cross_entropy
from sprout_fast.ops.log_gamma import log_gamma
from sprout_fast.ops.meter_step import meter_step_
from sprout_fast.ops.pgd_step import pgd_step_
from sprout_fast.ops.sample_mixup import sample_mixup
from sprout_fast.ops.sprout_loss import sprout_loss

__all__ = [
    "dirichlet",
    "gaussian_mixup",
    "generalized_cross_entropy",
    "log_gamma",
    "meter_step_",
    "pgd_step_",
    "sample_mixup",
    "sprout_loss",
]
