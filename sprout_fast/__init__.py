"""sprout_fast: SPROUT, attack-free robust training, at the cost of natural training.

The ops are in :mod:`sprout_fast.ops` (and under ``torch.ops.sprout_fast``), their plain-PyTorch
counterparts in :mod:`sprout_fast.reference`. :class:`SproutMixup` and :class:`SproutLoss` put them
into a training loop; :func:`load_model` and :func:`evaluate` are for trained models. The ops need
only torch, which is not imported before one of these names is used.
"""

from sprout_fast import _lazy, _library
from sprout_fast._version import __version__ as __version__

__getattr__, __dir__, __all__ = _lazy.attach(__name__, __file__)

_library.check_built()
_lazy.import_after_torch("sprout_fast.ops")
