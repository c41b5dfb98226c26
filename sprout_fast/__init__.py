"""sprout_fast: SPROUT, attack-free robust training, at the cost of ordinary training.

The ops are in :mod:`sprout_fast.ops` (and under ``torch.ops.sprout_fast``), their plain-PyTorch
twins in :mod:`sprout_fast.reference`. :class:`SproutMixup` and :class:`SproutLoss` put them into a
training loop, :func:`load_model` and :func:`evaluate` work on what was trained. The ops need torch
alone.
"""

from __future__ import annotations

from importlib.util import find_spec as _find_spec
from typing import TYPE_CHECKING

from sprout_fast._lazy import attach as _attach
from sprout_fast._lazy import import_with_torch as _import_with_torch

if TYPE_CHECKING:
    from sprout_fast import evaluation as evaluation
    from sprout_fast import ops as ops
    from sprout_fast._library import __version__ as __version__
    from sprout_fast._library import build_info, cmake_prefix_path
    from sprout_fast.evaluation.run import evaluate
    from sprout_fast.models.checkpoint import load_model
    from sprout_fast.nn.loss import SproutLoss
    from sprout_fast.nn.mixup import MixupTarget, SproutMixup
    from sprout_fast.ops.dirichlet import dirichlet
    from sprout_fast.ops.gaussian_mixup import gaussian_mixup
    from sprout_fast.ops.generalized_cross_entropy import generalized_cross_entropy
    from sprout_fast.ops.log_gamma import log_gamma
    from sprout_fast.ops.pgd_step import pgd_step_
    from sprout_fast.ops.sample_mixup import sample_mixup
    from sprout_fast.ops.sprout_loss import sprout_loss
    from sprout_fast.random import PhiloxState
else:
    __getattr__, __dir__ = _attach(
        __name__,
        {
            "_library": ["__version__", "build_info", "cmake_prefix_path"],
            "evaluation": [],
            "evaluation.run": ["evaluate"],
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
        },
        first="torch",  # and with it, as below, the ops
    )

__all__ = [
    "MixupTarget",
    "PhiloxState",
    "SproutLoss",
    "SproutMixup",
    "build_info",
    "cmake_prefix_path",
    "dirichlet",
    "evaluate",
    "gaussian_mixup",
    "generalized_cross_entropy",
    "load_model",
    "log_gamma",
    "pgd_step_",
    "sample_mixup",
    "sprout_loss",
]

if _find_spec("sprout_fast._C") is None:
    from sprout_fast import _library as _library  # says how to build it
_import_with_torch("sprout_fast.ops")
