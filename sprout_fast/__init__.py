"""sprout_fast: SPROUT, attack-free robust training, at the cost of ordinary training.

The ops are in :mod:`sprout_fast.ops` (and under ``torch.ops.sprout_fast``), their plain-PyTorch
twins in :mod:`sprout_fast.reference`; :class:`SproutMixup` and :class:`SproutLoss` put them into a
training loop. Importing this package needs torch alone.
"""

from sprout_fast import _library as _library  # first: it registers the ops
from sprout_fast._library import __version__ as __version__
from sprout_fast._library import build_info, cmake_prefix_path
from sprout_fast.nn import MixupTarget, SproutLoss, SproutMixup
from sprout_fast.ops import (
    dirichlet,
    gaussian_mixup,
    generalized_cross_entropy,
    log_gamma,
    pgd_step_,
    sample_mixup,
    sprout_loss,
)
from sprout_fast.random import PhiloxState

__all__ = [
    "PhiloxState",
    "SproutLoss",
    "SproutMixup",
    "MixupTarget",
    "build_info",
    "cmake_prefix_path",
    "dirichlet",
    "sample_mixup",
    "evaluate",
    "gaussian_mixup",
    "generalized_cross_entropy",
    "load_model",
    "log_gamma",
    "pgd_step_",
    "sprout_loss",
]


def __getattr__(name: str):
    # Not imported with the ops: these bring models, attacks and torchvision's along.
    if name == "load_model":
        from sprout_fast.models import load_model

        return load_model
    if name == "evaluate":
        from sprout_fast.evaluation import evaluate

        return evaluate
    raise AttributeError(f"module 'sprout_fast' has no attribute {name!r}")
