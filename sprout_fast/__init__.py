"""sprout_fast: SPROUT, attack-free robust training, at the cost of ordinary training.

The ops are in :mod:`sprout_fast.ops` (and under ``torch.ops.sprout_fast``), their plain-PyTorch
twins in :mod:`sprout_fast.reference`; :class:`SproutMixup` and :class:`SproutLoss` put them into a
training loop. Importing this package needs torch alone.
"""

from sprout_fast import _library as _library  # first: it registers the ops
from sprout_fast._library import build_info, cmake_prefix_path
from sprout_fast.modules import SproutLoss, SproutMixup, SproutTarget
from sprout_fast.ops import (
    dirichlet,
    draw_mixup,
    gaussian_mixup,
    generalized_cross_entropy,
    log_gamma,
    pgd_step_,
    sprout_loss,
)
from sprout_fast.random import PhiloxState

__all__ = [
    "PhiloxState",
    "SproutLoss",
    "SproutMixup",
    "SproutTarget",
    "build_info",
    "cmake_prefix_path",
    "dirichlet",
    "draw_mixup",
    "evaluate",
    "gaussian_mixup",
    "generalized_cross_entropy",
    "load_model",
    "log_gamma",
    "pgd_step_",
    "sprout_loss",
]
__version__ = str(build_info()["version"])


def __getattr__(name: str):
    # Not imported with the ops: these bring models, attacks and torchvision's along.
    if name == "load_model":
        from sprout_fast.models import load_model

        return load_model
    if name == "evaluate":
        from sprout_fast.evaluation import evaluate

        return evaluate
    raise AttributeError(f"module 'sprout_fast' has no attribute {name!r}")
