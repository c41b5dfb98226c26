"""Models that expect images in [0, 1]: architectures by name, their weights, and checkpoints.

torchvision is needed only when one of its architectures, or one that builds on them, is created. A
new family of architectures is a new file in ``families``.
"""

from sprout_fast._lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__)
