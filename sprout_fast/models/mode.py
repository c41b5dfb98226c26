"""Context managers that restore a model's state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def restored(objects: Iterable[Any], flag: str) -> Iterator[None]:
    """Give each object's attribute ``flag`` its present value again afterwards."""
    before = [(each, getattr(each, flag)) for each in objects]
    try:
        yield
    finally:
        for each, value in before:
            setattr(each, flag, value)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into eval mode inside, and restore the mode of each module afterwards.

    Each module's own mode, because a model in training may contain modules that stay in eval mode
    (frozen BatchNorm), which ``model.train()`` would change.

    >>> model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())
    >>> with evaluation_mode(model):
    ...     print(model[0].training, model[1].training)
    False False
    >>> print(model[0].training, model[1].training)
    True False
    """
    with restored(model.modules(), "training"):
        model.eval()
        yield


@contextmanager
def frozen_parameters(model: nn.Module) -> Iterator[None]:
    """Set ``requires_grad=False`` on all parameters inside, and restore their flags afterwards.

    A gradient with respect to the input alone then stores no activations for the parameters'
    gradients.

    >>> model = nn.Linear(2, 2)
    >>> with frozen_parameters(model):
    ...     print(model.weight.requires_grad)
    False
    >>> model.weight.requires_grad
    True
    """
    with restored(model.parameters(), "requires_grad"):
        for parameter in model.parameters():  # model.requires_grad_ is refused by TorchScript
            parameter.requires_grad_(False)
        yield
