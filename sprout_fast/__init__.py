"""sprout_fast: SPROUT, attack-free robust training, at the cost of natural training.

The ops are in :mod:`sprout_fast.ops` (and under ``torch.ops.sprout_fast``), their plain-PyTorch
counterparts in :mod:`sprout_fast.reference`. :class:`SproutMixup` and :class:`SproutLoss` put them
into a training loop; :func:`load_model` and :func:`evaluate` are for trained models. The ops need
only torch, which is not imported before one of these names is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sprout_fast import _lazy, _library
from sprout_fast._version import __version__ as __version__

if TYPE_CHECKING:
    from sprout_fast import evaluation as evaluation
    from sprout_fast import ops as ops
    from sprout_fast import reference as reference
    from sprout_fast._library import build_info as build_info
    from sprout_fast._library import cmake_prefix_path as cmake_prefix_path
    from sprout_fast.evaluation.evaluate import evaluate as evaluate
    from sprout_fast.models.checkpoint import load_model as load_model
    from sprout_fast.nn.loss import SproutLoss as SproutLoss
    from sprout_fast.nn.mixup import MixupTarget as MixupTarget
    from sprout_fast.nn.mixup import SproutMixup as SproutMixup
    from sprout_fast.ops.dirichlet import dirichlet as dirichlet
    from sprout_fast.ops.gaussian_mixup import gaussian_mixup as gaussian_mixup
    from sprout_fast.ops.generalized_cross_entropy import (
        generalized_cross_entropy as generalized_cross_entropy,
    )
    from sprout_fast.ops.log_gamma import log_gamma as log_gamma
    from sprout_fast.ops.pgd_step import pgd_step_ as pgd_step_
    from sprout_fast.ops.sample_mixup import sample_mixup as sample_mixup
    from sprout_fast.ops.sprout_loss import sprout_loss as sprout_loss
    from sprout_fast.random import PhiloxState as PhiloxState
else:
    __getattr__, __dir__, __all__ = _lazy.attach(
        __name__,
        {
            "_library": ["build_info", "cmake_prefix_path"],
            "evaluation": [],
            "evaluation.evaluate": ["evaluate"],
            "models.checkpoint": ["load_model"],
            "nn.loss": ["SproutLoss"],
            "nn.mixup": ["MixupTarget", "SproutMixup"],
            "ops": [],
            "ops.dirichlet": ["dirichlet"],
            "ops.gaussian_mixup": ["gaussian_mixup"],
            "ops.generalized_cross_entropy": ["generalized_cross_entropy"],
            "ops.log_gamma": ["log_gamma"],
            "ops.pgd_step": ["pgd_step_"],
            "ops.sample_mixup": ["sample_mixup"],
            "ops.sprout_loss": ["sprout_loss"],
            "random": ["PhiloxState"],
            "reference": [],
        },
    )

_library.check_built()
_lazy.import_after_torch("sprout_fast.ops")
