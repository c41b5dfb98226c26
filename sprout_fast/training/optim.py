"""The optimizers, the learning rate schedule, and the moving average of the weights."""

from __future__ import annotations

import copy
import functools
import math
import typing
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sprout_fast.errors import UserError
from sprout_fast.training.parallel import is_sharded

Schedule = Literal["cosine", "stages", "step"]

OptimizerName = Literal["sgd", "apex-fused-sgd", "adamw", "timm-lamb"]
# Parameters of torchvision's transformers.
_EMBEDDINGS = ("class_token", "pos_embedding", "relative_position_bias_table")


def build_optimizer(
    name: OptimizerName,
    model: nn.Module,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    norm_decay: bool = False,
    nesterov: bool = False,
    layer_decay: float | None = None,
) -> Optimizer:
    """Return an optimizer for the groups of :func:`parameter_groups`.

    Args:
        name: ``"sgd"`` and ``"adamw"`` for torch's fused ones, ``"apex-fused-sgd"`` for NVIDIA
            apex's, ``"timm-lamb"`` for timm's LAMB, which scales gradients down to a norm of 1.
        model: the model.
        lr, weight_decay: peak learning rate and weight decay, L2 for SGD.
        momentum: momentum factor; the first beta of AdamW and LAMB, whose second is 0.999.
        norm_decay: apply weight decay to normalization layers and biases too.
        nesterov: Nesterov's variant of SGD.
        layer_decay: factor of the rate from a block to the one before it; see
            :func:`layer_scales`.

    Raises:
        UserError: an unknown name, the optimizer's package is not installed or does not work here,
            or ``layer_decay`` with a network that has no blocks.
    """
    if name not in (names := typing.get_args(OptimizerName)):
        raise UserError(f"{name}: expected one of {', '.join(names)}", option="optimizer")
    groups = parameter_groups(model, weight_decay, weight_decay if norm_decay else 0.0)
    if layer_decay is not None:
        groups = _layer_groups(groups, layer_scales(model, layer_decay), lr)
    sgd: dict[str, Any] = {"lr": lr, "momentum": momentum, "nesterov": nesterov}
    adam: dict[str, Any] = {"lr": lr, "betas": (momentum, 0.999)}
    # Fused: one kernel per group instead of several passes over the weights, on CPU and CUDA. That
    # of SGD does not accept the weights of FSDP.
    if name == "sgd":
        optimizer = SGD(groups, fused=not is_sharded(model), **sgd)
    elif name == "apex-fused-sgd":
        optimizer = _apex_fused_sgd(groups, **sgd)
    elif name == "adamw":
        optimizer = AdamW(groups, fused=True, **adam)
    else:
        optimizer = _timm_lamb(groups, **adam)
    # Starting from zeros gives the same first step. Otherwise torch allocates SGD's buffers in that
    # step and leaves them unwritten if GradScaler skips it; the next step would read them.
    buffers = ("exp_avg", "exp_avg_sq")
    if name in ("sgd", "apex-fused-sgd"):
        buffers = ("momentum_buffer",) if momentum else ()
    for parameter in (p for group in groups for p in group["params"] if buffers):
        state = {buffer: torch.zeros_like(parameter) for buffer in buffers}
        if name == "adamw":
            state["step"] = torch.zeros((), device=parameter.device)
        optimizer.state[parameter] = state
    return optimizer


def _timm_lamb(groups: list[dict[str, Any]], **options: Any) -> Optimizer:
    try:
        from timm.optim.lamb import Lamb
    except ImportError:
        raise UserError("timm-lamb: needs timm: pip install timm", option="optimizer") from None
    return Lamb(groups, **options)


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
    does not regularize (He et al. 2019, "Bag of Tricks", section 3.1). The tokens and position
    embeddings of torchvision's transformers, and what timm's networks name, belong to them.

    >>> groups = parameter_groups(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), 1e-4)
    >>> [(len(group["params"]), group["weight_decay"]) for group in groups]
    [(1, 0.0001), (3, 0.0)]
    """
    named: Any = getattr(model, "no_weight_decay", set)
    names = set(named())  # in timm a method, of names from the model's root
    weights, others = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_weight = parameter.ndim > 1 and not (
                name in names or name.rpartition(".")[2] in _EMBEDDINGS
            )
            (weights if is_weight else others).append(parameter)
    groups = [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others, "weight_decay": norm_decay},
    ]
    return [group for group in groups if group["params"]]


def layer_scales(model: nn.Module, decay: float) -> dict[Tensor, float]:
    """Return the factor of each parameter's learning rate: ``decay`` to the power of its depth.

    Depth counts from the output (Clark et al. 2020, ELECTRA; Bao et al. 2022, BEiT): 0 for what
    follows the last block, 1 for the last block, and one more than the first block's for what
    precedes that. Blocks are the modules with layers of their own in a ``Sequential`` or
    ``ModuleList``, as in the transformers and convolutional networks of torchvision and timm; of a
    stage of blocks, its blocks count.

    Raises:
        UserError: the network has no blocks.

    >>> layer = nn.TransformerEncoderLayer(4, 1, 4, batch_first=True)
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.TransformerEncoder(layer, 2), nn.Linear(4, 2))
    >>> sorted(set(layer_scales(model, 0.5).values()))
    [0.125, 0.25, 0.5, 1.0]
    """
    blocks = list(_blocks(model))
    if not blocks:
        raise UserError("the network has no blocks", option="layer_decay")
    block_of = {p: number for number, block in enumerate(blocks, 1) for p in block.parameters()}
    scales, seen = {}, 0
    for parameter in model.parameters():
        seen = max(seen, block_of.get(parameter, 0))
        is_last = parameter not in block_of and seen == len(blocks)
        layer = len(blocks) + 1 if is_last else block_of.get(parameter, seen)
        scales[parameter] = decay ** (len(blocks) + 1 - layer)
    return scales


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    candidates = _listed(module)
    for child in module.children():
        if child in candidates and not any(map(_is_stack, child.modules())):
            yield child
        else:
            yield from _blocks(child)


def _listed(module: nn.Module) -> list[nn.Module]:
    """Return the modules with layers of their own that a container holds."""
    containers = (nn.Sequential, nn.ModuleList)
    return [
        child
        for child in (module.children() if isinstance(module, containers) else ())
        if not isinstance(child, containers)
        and any(True for part in child.children() for _ in part.parameters())
    ]


def _is_stack(module: nn.Module) -> bool:
    kinds = [type(child) for child in _listed(module)]
    return len(set(kinds)) < len(kinds)


def _layer_groups(
    groups: list[dict[str, Any]], scales: dict[Tensor, float], lr: float
) -> list[dict[str, Any]]:
    """Split ``groups`` by learning rate, the largest one first: it is what the log shows."""
    split: dict[tuple[float, float], list[Tensor]] = {}
    for group in groups:
        for parameter in group["params"]:
            key = scales[parameter], group["weight_decay"]
            split.setdefault(key, []).append(parameter)
    ordered = sorted(split.items(), key=lambda item: item[0], reverse=True)
    return [
        {"params": parameters, "weight_decay": decay, "lr": scale * lr}
        for (scale, decay), parameters in ordered
    ]


def build_scheduler(optimizer: Optimizer, schedule: Schedule = "cosine", **shape: Any) -> LambdaLR:
    """Return a scheduler that sets :func:`learning_rate_factor` at each optimizer step.

    The rate depends on the step alone, so a resumed run has the rates of an uninterrupted one.
    ``shape`` holds the keyword arguments of that function.

    Raises:
        UserError: an unknown schedule.
    """
    if schedule not in (names := typing.get_args(Schedule)):
        raise UserError(f"{schedule}: expected one of {', '.join(names)}", option="schedule")
    return LambdaLR(optimizer, functools.partial(learning_rate_factor, schedule=schedule, **shape))


def learning_rate_factor(
    step: int,
    schedule: Schedule = "cosine",
    *,
    warmup_steps: int,
    total_steps: int,
    drop_steps: int = 0,
    floor: float = 0.0,
) -> float:
    """Return the learning rate of optimizer step ``step`` (from 0) as a fraction of the peak.

    After ``warmup_steps`` of linear warm-up, ``"cosine"`` is half a cosine down to ``floor`` over
    the rest of ``total_steps``, ``"stages"`` divides by 10 after 40, 70 and 90 % of all steps, as
    SPROUT's code does (80, 60, 40 and 20 of 200 epochs), and ``"step"`` every ``drop_steps``.

    >>> [round(learning_rate_factor(s, warmup_steps=2, total_steps=6), 3) for s in range(7)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    >>> [learning_rate_factor(s, "stages", warmup_steps=0, total_steps=200) for s in (79, 80, 199)]
    [1.0, 0.1, 0.001]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "step":
        return 0.1 ** (step // drop_steps)
    if step >= total_steps:
        return floor if schedule == "cosine" else 0.0
    if schedule == "stages":
        return (1.0, 0.1, 0.01, 0.001)[sum(10 * step >= share * total_steps for share in (4, 7, 9))]
    done = (step - warmup_steps) / (total_steps - warmup_steps)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))


class MovingAverage:
    """Exponential moving average of a model's parameters and buffers, in ``module``.

    Integer buffers, batch norm's counters, are copied. Every ``interval``-th call of ``update``,
    from the first on, updates the average. The n-th update uses the decay
    min(decay, (1 + n) / (10 + n)), so that the initial weights are forgotten in a short run too
    (Abadi et al. 2016, TensorFlow's ``num_updates``); the first one, n = 0, copies the model.
    An update launches one kernel for all tensors and never waits for the device.

    Args:
        model: the model; after the first update, its tensors may change in place, but not be
            replaced.
        decay: the weight of the previous average, in [0,1).
        interval: calls per update.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> ema = MovingAverage(model, decay=0.99)
    >>> for value in (0.0, 0.0, 1.0):
    ...     _ = nn.init.constant_(model.weight, value)
    ...     ema.update()
    >>> round(ema.module.weight.item(), 3)  # n = 2: 1 - (1 + 2) / (10 + 2)
    0.75
    """

    def __init__(self, model: nn.Module, decay: float, interval: int = 1) -> None:
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.updates = 0  # calls of update
        self._model, self._decay, self._interval = model, decay, interval

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
        """Move the average toward the model's present weights, if an update is due."""
        done, waited = divmod(self.updates, self._interval)
        self.updates += 1
        if waited:
            return
        decay = min(self._decay, (1 + done) / (10 + done)) if done else 0.0
        counters, *floating = self._groups
        for averages, values in floating:
            if averages:
                get_ema_multi_avg_fn(decay)(averages, values, done)
        for average, value in zip(*counters, strict=True):
            average.copy_(value)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
