"""Models that expect images in [0, 1]: architectures by name, their weights, and checkpoints.

torchvision is needed only when one of its architectures, or one that builds on them, is created. A
new family of architectures is a new file in ``families``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sprout_fast._lazy import attach as _attach

if TYPE_CHECKING:
    from sprout_fast.models.checkpoint import CHECKPOINT_FORMAT as CHECKPOINT_FORMAT
    from sprout_fast.models.checkpoint import load_model as load_model
    from sprout_fast.models.checkpoint import read_checkpoint as read_checkpoint
    from sprout_fast.models.factory import create_model as create_model
    from sprout_fast.models.factory import default_normalization as default_normalization
    from sprout_fast.models.factory import is_arch as is_arch
    from sprout_fast.models.factory import list_archs as list_archs
    from sprout_fast.models.mode import evaluation_mode as evaluation_mode
    from sprout_fast.models.mode import frozen_parameters as frozen_parameters
    from sprout_fast.models.normalized import Normalized as Normalized
    from sprout_fast.models.weights import load_weights as load_weights
else:
    __getattr__, __dir__, __all__ = _attach(
        __name__,
        {
            "checkpoint": ["CHECKPOINT_FORMAT", "load_model", "read_checkpoint"],
            "factory": ["create_model", "default_normalization", "is_arch", "list_archs"],
            "mode": ["evaluation_mode", "frozen_parameters"],
            "normalized": ["Normalized"],
            "weights": ["load_weights"],
        },
    )
