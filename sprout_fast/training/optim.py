"""SGD with momentum, the learning rate schedule, and the moving average of the weights."""

from __future__ import annotations

import copy
import functools
import math
import typing
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sprout_fast.errors import UserError
from sprout_fast.training.parallel import is_sharded

Schedule = Literal["cosine", "stages"]


def build_optimizer(
    name: Literal["sgd", "apex-fused-sgd"],
    model: nn.Module,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    norm_decay: bool = False,
) -> Optimizer:
    """Return SGD with momentum, but not Nesterov's, for the groups of :func:`parameter_groups`.

    Args:
        name: ``"sgd"`` for torch's fused SGD, ``"apex-fused-sgd"`` for that of NVIDIA apex.
        model: the model.
        lr, momentum, weight_decay: peak learning rate, momentum factor and L2 weight decay.
        norm_decay: apply weight decay to normalization layers and biases too.

    Raises:
        UserError: an unknown name, or NVIDIA apex is not installed or does not work here.
    """
    if name not in ("sgd", "apex-fused-sgd"):
        raise UserError(f"{name}: expected sgd or apex-fused-sgd", option="optimizer")
    groups = parameter_groups(model, weight_decay, weight_decay if norm_decay else 0.0)
    options: dict[str, Any] = {"lr": lr, "momentum": momentum, "nesterov": False}
    if name == "apex-fused-sgd":
        return _apex_fused_sgd(groups, **options)
    # Fused: one kernel per group instead of several passes over the weights, on CPU and CUDA. There
    # is none for the weights of FSDP.
    optimizer = SGD(groups, fused=not is_sharded(model), **options)
    # Starting from zeros gives the same first step. Otherwise torch allocates the buffers in that
    # step and leaves them unwritten if GradScaler skips it; the next step would read them.
    for parameter in (p for group in groups for p in group["params"] if momentum):
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _apex_fused_sgd(groups: list[dict[str, Any]], **options: Any) -> Optimizer:
    try:
        import apex  # pyright: ignore[reportMissingImports]  (optional)
    except ImportError:
        raise _apex_error("apex is not installed") from None
    try:
        from apex.optimizers import FusedSGD  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        found = getattr(apex, "__file__", None) or "the installed apex"
        raise _apex_error(f"{found} is not NVIDIA's ({error})") from None
    try:
        return FusedSGD(groups, **options)
    except RuntimeError as error:  # built without its CUDA extensions, or no GPU
        raise _apex_error(str(error)) from error


def _apex_error(reason: str) -> UserError:
    return UserError(
        f"apex-fused-sgd: {reason}; build NVIDIA apex from source with its CUDA extensions, see"
        " https://github.com/NVIDIA/apex (the package called apex on PyPI is unrelated), or use"
        " optimizer sgd, torch's fused SGD, which needs no apex",
        option="optimizer",
    )


def parameter_groups(
    model: nn.Module, weight_decay: float, norm_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Return a group of weights with decay, and one of norms and biases with another decay.

    Norms and biases are the parameters with at most one dimension. By default they have no decay:
    on a norm's scale it only changes the learning rate of the preceding layer, and on a bias it
    does not regularize (He et al. 2019, "Bag of Tricks", section 3.1).

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
    optimizer: Optimizer, schedule: Schedule = "cosine", *, warmup_steps: int, total_steps: int
) -> LambdaLR:
    """Return a scheduler that sets :func:`learning_rate_factor` at each optimizer step.

    The rate depends on the step alone, so a resumed run has the rates of an uninterrupted one.

    Raises:
        UserError: an unknown schedule.
    """
    if schedule not in (names := typing.get_args(Schedule)):
        raise UserError(f"{schedule}: expected {' or '.join(names)}", option="schedule")
    steps = {"warmup_steps": warmup_steps, "total_steps": total_steps}
    return LambdaLR(optimizer, functools.partial(learning_rate_factor, schedule=schedule, **steps))


def learning_rate_factor(
    step: int, schedule: Schedule = "cosine", *, warmup_steps: int, total_steps: int
) -> float:
    """Return the learning rate of optimizer step ``step`` (from 0) as a fraction of the peak.

    After ``warmup_steps`` of linear warm-up, ``"cosine"`` is half a cosine down to 0 over the rest
    of ``total_steps``, and ``"stages"`` divides by 10 after 40, 70 and 90 % of all steps, as
    SPROUT's code does (80, 60, 40 and 20 of 200 epochs).

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


class MovingAverage:
    """Exponential moving average of a model's parameters and buffers, in ``module``.

    Integer buffers, batch norm's counters, are copied. The n-th update uses the decay
    min(decay, (1 + n) / (10 + n)), so that the initial weights are forgotten in a short run too
    (Abadi et al. 2016, TensorFlow's ``num_updates``); the first one, n = 0, copies the model.
    An update launches one kernel for all tensors and never waits for the device.

    Args:
        model: the model; after the first update, its tensors may change in place, but not be
            replaced.
        decay: the weight of the previous average, in (0,1).

    >>> model = nn.Linear(1, 1, bias=False)
    >>> ema = MovingAverage(model, decay=0.99)
    >>> for value in (0.0, 0.0, 1.0):
    ...     _ = nn.init.constant_(model.weight, value)
    ...     ema.update()
    >>> round(ema.module.weight.item(), 3)  # n = 2: 1 - (1 + 2) / (10 + 2)
    0.75
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.updates = 0
        self._model, self._decay = model, decay

    @functools.cached_property
    def _groups(self) -> list[tuple[list[Tensor], list[Tensor]]]:
        """Averages and values: of counters, of whole tensors and of sharded ones.

        Collected at the first update, since FSDP replaces the parameters of both before that.
        """
        groups: list[tuple[list[Tensor], list[Tensor]]] = [([], []), ([], []), ([], [])]
        for average, value in zip(_tensors(self.module), _tensors(self._model), strict=True):
            kind = average.is_floating_point() + hasattr(average, "to_local")
            groups[kind][0].append(average)
            groups[kind][1].append(value)
        return groups

    @torch.no_grad()
    def update(self) -> None:
        """Move the average toward the model's present weights."""
        decay = min(self._decay, (1 + self.updates) / (10 + self.updates)) if self.updates else 0.0
        counters, *floating = self._groups
        for averages, values in floating:
            if averages:
                get_ema_multi_avg_fn(decay)(averages, values, self.updates)
        for average, value in zip(*counters, strict=True):
            average.copy_(value)
        self.updates += 1


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
