"""An exponential moving average of the weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Tensors = tuple[Tensor, ...] | list[Tensor]


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """Return a moving average of ``model``'s parameters and buffers, in its ``.module``.

    Call ``update_parameters(model)`` after each optimizer step. The n-th update uses the decay
    min(decay, (1 + n) / (10 + n)), so that the initial weights are forgotten in a short run too
    (Abadi et al. 2016, TensorFlow's ``num_updates``).

    >>> import torch
    >>> model = nn.Linear(1, 1, bias=False)
    >>> ema = averaged(model, decay=0.99)
    >>> for value in (0.0, 0.0, 1.0):
    ...     _ = nn.init.constant_(model.weight, value)
    ...     ema.update_parameters(model)
    >>> round(ema.module.weight.item(), 3)  # after two updates: 1 - (1 + 2) / (10 + 2)
    0.75
    """

    def update(averages: Tensors, values: Tensors, count: Tensor | int) -> None:
        # The count passed in is on the weights' device, where reading it would stall the stream.
        done = int(average.n_averaged)
        get_ema_multi_avg_fn(min(decay, (1 + done) / (10 + done)))(averages, values, count)

    average = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    return average
