"""Models that take images in [0,1]: architectures by name, their weights, our checkpoints.

`import sprout_fast.models` needs torch alone; torchvision is needed when one of its architectures,
or one that builds on them, is asked for. A new architecture is a new file in `families`.
"""

from sprout_fast.models.checkpoint import CHECKPOINT_FORMAT, load_model, read_checkpoint
from sprout_fast.models.factory import create_model, default_normalization, is_arch, list_archs
from sprout_fast.models.mode import evaluation_mode, frozen_parameters
from sprout_fast.models.normalized import Normalized
from sprout_fast.models.weights import load_weights

__all__ = [
    "CHECKPOINT_FORMAT",
    "Normalized",
    "create_model",
    "default_normalization",
    "evaluation_mode",
    "frozen_parameters",
    "is_arch",
    "list_archs",
    "load_model",
    "load_weights",
    "read_checkpoint",
]
