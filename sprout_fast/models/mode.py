"""Borrow a model for evaluation or an attack and give it back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """`model.eval()` inside, and each module's own mode again after.

    Each module's, because a training model may hold modules that stay in eval mode (frozen
    BatchNorm), which `model.train()` would wake.

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
    """No parameter requires a gradient inside; their own flags again after.

    A gradient to the input alone then keeps no activations for the parameters' gradients.
    """
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, requires_grad in flags:
            parameter.requires_grad_(requires_grad)
