"""SGD with momentum, and the learning rate of each step."""

from __future__ import annotations

import functools
import math
from typing import Any

from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from sprout_fast.errors import UserError

_APEX = "--optimizer apex-fused-sgd"
_APEX_HELP = (
    "build NVIDIA's from source with its CUDA extensions, see https://github.com/NVIDIA/apex"
    " (the package called apex on PyPI is another program), or take --optimizer sgd, torch's fused"
    " SGD, which needs no apex"
)


def build_optimizer(
    name: str,
    model: nn.Module,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    norm_decay: bool = False,
) -> Optimizer:
    """SGD with plain momentum: ``"sgd"`` (torch's, fused) or ``"apex-fused-sgd"`` (NVIDIA apex's).

    Raises:
        UserError: apex is asked for and not there.
    """
    groups = parameter_groups(model, weight_decay, weight_decay if norm_decay else 0.0)
    options: dict[str, Any] = {"lr": lr, "momentum": momentum, "nesterov": False}
    if name == "apex-fused-sgd":
        return _apex_fused_sgd(groups, **options)
    # Fused: one kernel a group in place of several passes over the weights, on CPU and CUDA.
    return SGD(groups, fused=True, **options)


def _apex_fused_sgd(groups: list[dict[str, Any]], **options: Any) -> Optimizer:
    try:
        import apex
    except ImportError:
        raise UserError(f"{_APEX}: apex is not installed; {_APEX_HELP}") from None
    try:
        from apex.optimizers import FusedSGD
    except ImportError as error:
        found = getattr(apex, "__file__", None) or "the installed apex"
        raise UserError(f"{_APEX}: {found} is not NVIDIA's ({error}); {_APEX_HELP}") from None
    try:
        return FusedSGD(groups, **options)
    except RuntimeError as error:  # built without its CUDA extensions, or no GPU
        raise UserError(f"{_APEX}: {error}; {_APEX_HELP}") from error


def parameter_groups(
    model: nn.Module, weight_decay: float, norm_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Weights with decay; norms and biases, which have one dimension or none, with their own.

    By default without: decay on a norm's scale changes only the learning rate of the layer before
    it, and on a bias nothing that regularises (He et al. 2019, "Bag of Tricks", section 3.1).

    >>> groups = parameter_groups(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), 1e-4)
    >>> [(len(group["params"]), group["weight_decay"]) for group in groups]
    [(1, 0.0001), (3, 0.0)]
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": norm_decay},
    ]
    return [group for group in groups if group["params"]]


def build_scheduler(
    optimizer: Optimizer, schedule: str = "cosine", *, warmup_steps: int, total_steps: int
) -> LambdaLR:
    """Linear warm-up, then ``schedule`` ("cosine" or "stages"), a new rate each optimizer step.

    A function of the step alone, so a resumed run has the rates of an uninterrupted one.
    """
    steps = {"warmup_steps": warmup_steps, "total_steps": total_steps}
    return LambdaLR(optimizer, functools.partial(learning_rate_factor, schedule=schedule, **steps))


def learning_rate_factor(
    step: int, schedule: str = "cosine", *, warmup_steps: int, total_steps: int
) -> float:
    """Learning rate of optimizer step ``step`` (from 0) as a share of the peak.

    ``"cosine"``: half a cosine to 0 over the steps after the warm-up. ``"stages"``: a tenth after
    40, 70 and 90 % of all steps, the stages of SPROUT's code (80, 60, 40 and 20 epochs of 200).

    >>> [round(learning_rate_factor(s, warmup_steps=2, total_steps=6), 3) for s in range(7)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    >>> [learning_rate_factor(s, "stages", warmup_steps=0, total_steps=200) for s in (79, 80, 199)]
    [1.0, 0.1, 0.001]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if step >= total_steps:
        return 0.0
    if schedule == "stages":
        return (1.0, 0.1, 0.01, 0.001)[sum(10 * step >= share * total_steps for share in (4, 7, 9))]
    done = (step - warmup_steps) / (total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))
