"""Losses that attacks maximize."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sprout_fast.registry import Registry

Loss = Literal["ce", "rescaled_ce", "margin", "dlr"]

#: Losses by name: ``loss(logits, labels, targets=None)``, from logits [B, K] and labels int64 [B]
#: to [B], larger the closer the model is to misclassifying the image. With ``targets``, int64 [B]
#: and none of them the label, larger the closer it is to predicting the target.
#:
#: >>> LOSSES["margin"](torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
#: tensor([-1.])
LOSSES: Registry[Callable[..., Tensor]] = Registry("loss")


@LOSSES.register("ce")
def ce(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return the cross entropy of the label; with targets, minus that of the target.

    >>> ce(torch.zeros(1, 4), torch.tensor([0]))
    tensor([1.3863])
    """
    if targets is None:
        return F.cross_entropy(logits, labels, reduction="none")
    return -F.cross_entropy(logits, targets, reduction="none")


@LOSSES.register("rescaled_ce")
def rescaled_ce(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return :func:`ce` of logits divided by the margin between each image's two largest.

    The gradient of cross entropy vanishes in float32 when the margin is large, which a network can
    achieve by scaling its logits. Dividing by the margin, held constant, undoes any scale.

    >>> labels, logits = torch.tensor([0]), torch.tensor([[2.0, 1.0, 0.0]])
    >>> rescaled_ce(logits, labels), rescaled_ce(1000 * logits, labels)
    (tensor([0.4076]), tensor([0.4076]))
    """
    largest, second = logits.detach().topk(2, dim=1).values.split(1, dim=1)
    spread = largest - logits.detach().amin(1, keepdim=True)
    # The margin of a tie is 0: use the smallest number that is not negligible beside the spread.
    margin = torch.maximum(largest - second, torch.finfo(logits.dtype).eps * spread)
    margin = torch.where(margin > 0, margin, 1)
    return ce(logits / margin, labels, targets)


@LOSSES.register("margin")
def margin(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return the largest other logit, or the target's, minus the label's.

    It is f_6 of Carlini & Wagner, "Towards Evaluating the Robustness of Neural Networks", S&P 2017.

    >>> margin(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]), torch.tensor([1]))
    tensor([-2.])
    """
    own = logits.gather(1, labels[:, None])
    if targets is None:
        other = logits.scatter(1, labels[:, None], -torch.inf).amax(1, keepdim=True)
    else:
        other = logits.gather(1, targets[:, None])
    return (other - own).squeeze(1)


@LOSSES.register("dlr")
def dlr(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return the difference of logits ratio, which does not change with the logits' scale.

    It is :func:`margin` divided by z_1 - z_3, the largest and the third largest logit (Croce & Hein
    2020, eq. 6); with targets, by z_1 - (z_3 + z_4) / 2 (eq. 7).

    Raises:
        ValueError: fewer than 3 classes; with targets, fewer than 4.

    >>> dlr(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
    tensor([-0.5000])
    """
    needed = 3 if targets is None else 4
    if logits.shape[1] < needed:
        raise ValueError(f"dlr: got {logits.shape[1]} classes, expected at least {needed}")
    largest = logits.topk(needed, dim=1).values
    spread = largest[:, 0] - largest[:, 2:].mean(1)
    return margin(logits, labels, targets) / (spread + 1e-12)


def likeliest_wrong(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """Return the wrong classes with the largest logits, largest first: [B, min(count, K - 1)]."""
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.topk(min(count, logits.shape[1] - 1), dim=1).indices
