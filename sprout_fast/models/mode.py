"""Context managers that change a model's state and restore it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into eval mode inside, and restore the mode of each module afterwards.

    Each module's own mode, because a model in training may contain modules that stay in eval mode
    (frozen BatchNorm), which ``model.train()`` would change.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())
    >>> with evaluation_mode(model):
    ...     print(model.training, model[0].training, model[1].training)
    False False False
    >>> print(model.training, model[0].training, model[1].training)
    True True False
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def frozen_parameters(model: nn.Module) -> Iterator[None]:
    """Set ``requires_grad=False`` on all parameters inside, and restore their flags afterwards.

    A gradient with respect to the input alone then stores no activations for the parameters'
    gradients.

    >>> from torch import nn
    >>> model = nn.Linear(2, 2)
    >>> with frozen_parameters(model):
    ...     print(model.weight.requires_grad)
    False
    >>> model.weight.requires_grad
    True
    """
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, requires_grad in flags:
            parameter.requires_grad_(requires_grad)
