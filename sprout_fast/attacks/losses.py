"""What attacks raise, by name in ``LOSSES``: (logits [B,K], labels int64 [B]) -> [B].

Each is larger the nearer the model is to erring. With ``targets`` int64 [B], none of them the
label, it is larger the nearer the model is to that class.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sprout_fast.errors import UserError

LOSSES: dict[str, Callable[..., Tensor]] = {}


def _register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    LOSSES[function.__name__] = function
    return function


@_register
def ce(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Cross entropy of the label; with targets, minus that of the target."""
    if targets is None:
        return F.cross_entropy(logits, labels, reduction="none")
    return -F.cross_entropy(logits, targets, reduction="none")


@_register
def rescaled_ce(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """`ce` of logits divided by each image's own margin between its two largest, held constant.

    Cross entropy's gradient vanishes in float32 where the margin is large, as a network can make
    it by scaling its logits. Dividing by the margin undoes any scale.
    """
    largest, second = logits.detach().topk(2, dim=1).values.split(1, dim=1)
    spread = largest - logits.detach().amin(1, keepdim=True)
    # Of a tie the margin is 0: then what is the least next to the logits' spread.
    margin = torch.maximum(largest - second, torch.finfo(logits.dtype).eps * spread)
    margin = torch.where(margin > 0, margin, 1)
    return ce(logits / margin, labels, targets)


@_register
def margin(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Largest other logit (or the target's) minus the label's: Carlini & Wagner 2017, f_6."""
    own = logits.gather(1, labels[:, None])
    if targets is None:
        other = logits.scatter(1, labels[:, None], -torch.inf).amax(1, keepdim=True)
    else:
        other = logits.gather(1, targets[:, None])
    return (other - own).squeeze(1)


@_register
def dlr(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Difference of logits ratio: `margin` over a spread of the largest logits, free of scale.

    Croce & Hein 2020, eq. (6): over z_1 - z_3; with targets eq. (7): over z_1 - (z_3 + z_4)/2.
    Needs 3 classes, with targets 4.
    """
    needed = 3 if targets is None else 4
    if logits.shape[1] < needed:
        raise ValueError(f"dlr: got {logits.shape[1]} classes, takes at least {needed}")
    largest = logits.topk(needed, dim=1).values
    spread = largest[:, 0] - largest[:, 2:].mean(1)
    return margin(logits, labels, targets) / (spread + 1e-12)


def loss_of(name: str) -> Callable[..., Tensor]:
    """``LOSSES[name]``, or a UserError that names what is taken."""
    if name not in LOSSES:
        raise UserError(f"loss: got {name!r}, takes one of {', '.join(LOSSES)}")
    return LOSSES[name]


def likeliest_wrong(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """The ``count`` largest logits' classes but for the label, largest first: int64 [B,T].

    T is ``count``, or K - 1 where there are no more.
    """
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.topk(min(count, logits.shape[1] - 1), dim=1).indices
