"""SPROUT's loss with its self-progressing label parameter beta as one module."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sprout_fast.nn.mixup import MixupTarget, check_option
from sprout_fast.ops._shared import is_transformed
from sprout_fast.ops.sprout_loss import (
    BetaGrad,
    LabelMode,
    SproutLossArguments,
    sprout_loss_and_grad_beta,
    sprout_loss_and_step,
    step_beta_,
)
from sprout_fast.random import PhiloxState

LabelsPerPair = Literal[1, 2]
LrUnit = Literal["image", "step"]


class SproutLoss(nn.Module):
    """SPROUT's loss with its self-progressing label parameter beta: Algorithm 1, steps 3 to 5.

    ``beta`` is a buffer that the module updates itself: in training mode each forward pass takes an
    ascent step with the gradient that the fused op computes along with the loss, outside autograd.
    Loss scaling, gradient clipping and the optimizer of the model therefore never affect it. The
    backward pass uses the beta of its forward pass.

    beta_0 ~ U(0, 10/K), so that the expected mass on the true class is about 0.95 for any K. After
    each step beta is projected onto [1e-3/K, inf): at 0 the implicit gradient vanishes, and the
    class could never recover.

    Under ``torch.distributed`` the gradient of beta is averaged over ranks, with one all-reduce of
    K floats per step, which runs beside the backward pass and is waited for where beta is used
    next. Steps with a nonfinite gradient, as in an AMP step that overflows, are skipped.

    Args:
        num_classes: number of classes K.
        alpha, scale, label_mode, beta_grad: see :func:`sprout_fast.sprout_loss`. ``beta_grad`` None
            means ``"implicit"`` for fewer than 100 classes and ``"expected"`` otherwise, since the
            noise of the implicit gradient then exceeds its mean.
        labels_per_pair: 1 draws one label for the mixed pair. 2 draws one for each of the two
            images and mixes their losses by ``lam``, of which there must be one per batch, as the
            authors' code does.
        beta_init: initial value of beta in every class, in [0, 1e6]; None draws it as above.
        beta_lr: rate gamma_beta of the ascent per image, so that beta's trajectory does not depend
            on how many GPUs, batches or accumulated batches the images are spread over: a step on N
            images of all processes has the size ``beta_lr * N`` on the mean gradient. None means
            1/(256 K), in proportion to beta_0: 0.5/K on a batch of 128.
        beta_lr_unit: ``"step"`` makes ``beta_lr`` the size of a step, whatever its images.
        beta_momentum, beta_weight_decay: as in ``torch.optim.SGD(maximize=True)``. 0 in the paper,
            0.9 and 5e-4 in the authors' code.
        mass_floor: lower bound of the expected mass on the true class, in (1/K, 1), maintained by
            scaling beta down after each step; 0, as in the paper, sets no bound. None means 0 for
            fewer than 100 classes and otherwise 0.9, the mass that label smoothing by 0.1 leaves:
            without a bound one epoch of ImageNet takes the mass below 0.5 (docs/method.md).
        accumulation_steps: number of forward passes per ascent step; their gradients are averaged.
        self_progressing: False leaves the steps of beta to :meth:`ascend`.
        seed, first_row, device: see :class:`sprout_fast.PhiloxState`. beta_0 depends on the seed
            only, so it is the same on every rank.

    Raises:
        ValueError: An option has a value that is not accepted; the message names it.

    Attributes:
        lr_factor: buffer, float32 scalar, a factor of ``beta_lr``, 1 at first. A loop fills it with
            the weights' learning rate as a fraction of its peak, so that beta follows their
            schedule.

    Example:
        >>> loss_fn = SproutLoss(num_classes=3)
        >>> logits = torch.zeros(4, 3, requires_grad=True)
        >>> loss_fn(logits, MixupTarget(torch.tensor([0, 1, 2, 0]))).backward()
        >>> logits.grad.shape
        torch.Size([4, 3])
    """

    beta_velocity: Tensor
    beta_grad_sum: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        alpha: float = 0.01,
        scale: float = 1.0,
        label_mode: LabelMode = "sample",
        labels_per_pair: LabelsPerPair = 1,
        beta_init: float | None = None,
        beta_grad: BetaGrad | None = None,
        beta_lr: float | None = None,
        beta_lr_unit: LrUnit = "image",
        beta_momentum: float = 0.0,
        beta_weight_decay: float = 0.0,
        mass_floor: float | None = None,
        accumulation_steps: int = 1,
        self_progressing: bool = True,
        seed: int = 0,
        first_row: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_option("label_mode", label_mode, get_args(LabelMode))
        check_option("labels_per_pair", labels_per_pair, get_args(LabelsPerPair))
        check_option("beta_lr_unit", beta_lr_unit, get_args(LrUnit))
        check_option("beta_grad", beta_grad, (*get_args(BetaGrad), None))
        rate = 0, sys.float_info.max, "nonnegative and finite"
        for name, value, lowest, highest, expected in (
            ("num_classes", num_classes, 1, math.inf, "at least 1"),
            ("accumulation_steps", accumulation_steps, 1, math.inf, "at least 1"),
            ("alpha", alpha, 0, 1, "in [0, 1]"),
            ("scale", scale, 1e-30, 1e30, "in [1e-30, 1e30]"),
            ("beta_init", beta_init or 0, 0, 1e6, "in [0, 1e6] or None"),
            ("beta_lr", beta_lr or 0, *rate),
            ("beta_momentum", beta_momentum, *rate),
            ("beta_weight_decay", beta_weight_decay, *rate),
        ):
            if not lowest <= value <= highest:
                raise ValueError(f"{name} must be {expected}, got {value}")
        if mass_floor is None:
            mass_floor = 0.0 if num_classes < 100 else 0.9
        if mass_floor != 0 and not 1 / num_classes < mass_floor < 1:
            raise ValueError(
                f"mass_floor must be 0 or in (1/{num_classes}, 1), got {mass_floor}: uniform "
                "labels leave each class a mass of 1/K"
            )
        self.num_classes, self.alpha, self.scale = num_classes, alpha, scale
        self.labels_per_pair, self.self_progressing = labels_per_pair, self_progressing
        self.label_mode: LabelMode = label_mode
        default: BetaGrad = "implicit" if num_classes < 100 else "expected"
        self.beta_grad: BetaGrad = beta_grad or default
        self.beta_lr = 1 / (256 * num_classes) if beta_lr is None else beta_lr
        self.per_image = beta_lr_unit == "image"
        self.beta_momentum, self.beta_weight_decay = beta_momentum, beta_weight_decay
        self.mass_floor, self.accumulation_steps = mass_floor, accumulation_steps
        self.beta_min, self.beta_largest_total = 1e-3 / num_classes, math.inf
        if mass_floor:
            # With s = sum(beta), the mean true-class mass is
            # (1 - alpha + alpha s / K) / (1 - alpha + alpha s): solved for s at the floor.
            slope = alpha * (mass_floor - 1 / num_classes)
            if slope > 0:
                self.beta_largest_total = (1 - alpha) * (1 - mass_floor) / slope
        self.rng = PhiloxState(seed, device, first_row)
        beta = torch.rand(num_classes, generator=torch.Generator().manual_seed(seed))
        beta = beta * 10 / num_classes if beta_init is None else torch.full_like(beta, beta_init)
        # On its way between the ranks: a sum of gradients and the step to take on it.
        self._pending: tuple[Any, Tensor, list[float]] | None = None
        self._exchanged: Tensor | None = None
        beta = beta.clamp(min=self.beta_min).to(device)
        self._buffers["beta"] = beta  # register_buffer refuses a name that is a property
        # float32 [K]: the momentum, and the images' gradients summed since the last step.
        self.register_buffer("beta_velocity", torch.zeros_like(beta))
        self.register_buffer("beta_grad_sum", torch.zeros_like(beta))
        # A number would be part of a compiled or captured step.
        self._buffers["lr_factor"] = torch.ones((), device=device)
        self._non_persistent_buffers_set.add("lr_factor")
        # Batches and images in that sum; reading a buffer would synchronize.
        self.micro_steps = self.images = 0

    @property
    def beta(self) -> Tensor:
        """The parameter that progresses, float32 [K], after the last step."""
        self._finish_step()
        return self._buffer("beta")

    @property
    def lr_factor(self) -> Tensor:
        """A factor of ``beta_lr``, float32 scalar."""
        self._finish_step()  # with the factor that it began with
        return self._buffer("lr_factor")

    def _buffer(self, name: str) -> Tensor:
        buffers: dict[str, Any] = self._buffers
        return buffers[name]

    def get_extra_state(self) -> Tensor:
        """Return the accumulation counts, so that a run resumes between two steps of beta too."""
        return torch.tensor([self.micro_steps, self.images])

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the accumulation counts."""
        self.micro_steps, self.images = state.tolist()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SproutLoss:
        """Keep beta and what belongs to it float32 when ``model.half()`` and the like cast it."""
        self._finish_step()
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, buffer in self.named_buffers(recurse=False):
            if buffer.dtype != before[name].dtype:
                self.register_buffer(
                    name,
                    before[name].to(buffer.device),
                    name not in self._non_persistent_buffers_set,
                )
        return self

    def forward(self, logits: Tensor, target: MixupTarget | Tensor) -> Tensor:
        """Compute the mean loss of a batch; in training mode, also take an ascent step of beta.

        Args:
            logits: [B, K], any floating dtype.
            target: target returned by :class:`SproutMixup`, or int64 [B] labels.

        Returns:
            The mean loss, a float32 scalar (float64 for float64 logits).

        Raises:
            ValueError: ``labels_per_pair`` is 2 and ``target.lam`` has more than one value.
        """
        progresses = self.training and self.self_progressing and self.beta_grad != "none"
        return self._compute(logits, target, progresses)

    @torch.no_grad()
    def ascend(self, logits: Tensor, target: MixupTarget | Tensor) -> None:
        """Take an ascent step of beta on a batch of its own, for ``self_progressing=False``.

        Arguments as in :meth:`forward`; no gradient reaches ``logits``.
        """
        if self.beta_grad != "none":
            self._compute(logits, target, True)

    def _compute(self, logits: Tensor, target: MixupTarget | Tensor, progresses: bool) -> Tensor:
        if self._pending is not None:
            self._finish_step()
        if isinstance(target, Tensor):
            target = MixupTarget(target)
        functional = not self.training or is_transformed() or torch.compiler.is_compiling()
        if functional or (self.labels_per_pair == 2 and target.lam is not None):
            return self._compose(logits, target, progresses)
        # Looked up once: attributes of a module cost as much as the arithmetic of a small batch.
        own: dict[str, Any] = self._buffers
        rng: Any = self._modules["rng"]
        rng.check_process()
        beta_grad: BetaGrad = self.beta_grad if progresses else "none"
        weight, step, grad_sum, exchanged = 0.0, [], own["beta_grad_sum"], None
        if progresses:
            weight, step = self._plan(logits)
            if step and _world_size() > 1:
                exchanged = self._to_exchange()
                if self.accumulation_steps == 1:
                    grad_sum = exchanged
        loss = sprout_loss_and_step(
            logits,
            target,
            (own["beta"], rng._buffers["state"], rng.first_row),
            (self.alpha, self.scale, self.label_mode, beta_grad),
            (grad_sum, weight, own["beta_velocity"], own["lr_factor"]),
            step if exchanged is None else [],
        )
        if progresses and self.accumulation_steps > 1:
            self._count(logits)
        if exchanged is not None:
            if grad_sum is not exchanged:
                exchanged.copy_(grad_sum)
                grad_sum.zero_()
            self._exchange(exchanged, step)
        return loss

    def _compose(self, logits: Tensor, target: MixupTarget, progresses: bool) -> Tensor:
        """Compute the same with functional ops."""
        beta = self.beta.clone()  # the step changes it, and the backward pass needs this value
        beta_grad: BetaGrad = self.beta_grad if progresses else "none"

        def drawn(target: MixupTarget) -> tuple[Tensor, Tensor]:
            state = self.rng.next() if self.training else self.rng.current()
            arguments = SproutLossArguments(
                logits, *target, beta, state, self.alpha, self.scale, self.label_mode, beta_grad
            )
            return sprout_loss_and_grad_beta(arguments)

        if self.labels_per_pair == 1 or target.lam is None or target.partner_labels is None:
            loss, grad = drawn(target)
        elif target.lam.numel() != 1:
            got = target.lam.numel()
            raise ValueError(
                f"lam must have one value per batch if labels_per_pair is 2, got {got}"
            )
        else:
            lam = target.lam.squeeze()
            own_loss, own_grad = drawn(MixupTarget(target.labels))
            partner_loss, partner_grad = drawn(MixupTarget(target.partner_labels))
            loss = lam * own_loss + (1 - lam) * partner_loss
            grad = lam * own_grad + (1 - lam) * partner_grad
        if progresses:
            self._ascend(grad.detach(), logits)
        return loss

    @torch.no_grad()
    def _ascend(self, grad: Tensor, logits: Tensor) -> None:
        weight, step = self._plan(logits)
        if self.accumulation_steps > 1:
            self._count(logits)
            self.beta_grad_sum.add_(grad, alpha=weight)
            if not step:
                return
            grad = self.beta_grad_sum.clone()
            self.beta_grad_sum.zero_()
        if _world_size() > 1:
            if not torch.compiler.is_compiling():
                return self._exchange(self._to_exchange().copy_(grad), step)
            grad = grad.clone()
            dist.all_reduce(grad)
        step_beta_(self.beta, grad, self.beta_velocity, self.lr_factor, step)

    def _plan(self, logits: Tensor) -> tuple[float, list[float]]:
        """Return the weight of a batch's gradient in the sum, and the step on it, if any."""
        images, divisor = logits.shape[0], 1
        weight = 1.0
        if self.accumulation_steps > 1:
            if logits.is_cuda and torch.cuda.is_current_stream_capturing():
                raise RuntimeError(
                    "SproutLoss with accumulation_steps > 1 cannot be captured into a CUDA graph: "
                    "whether beta ascends depends on a count that the graph would not change"
                )
            weight = float(images)
            if self.micro_steps + 1 < self.accumulation_steps:
                return weight, []
            images = divisor = self.images + images
        world = _world_size()
        size = self.beta_lr * images * world if self.per_image else self.beta_lr
        momentum, decay = self.beta_momentum, self.beta_weight_decay
        bounds = self.beta_min, self.beta_largest_total
        return weight, [divisor * world, size, momentum, decay, *bounds]

    def _count(self, logits: Tensor) -> None:
        self.micro_steps = (self.micro_steps + 1) % self.accumulation_steps
        self.images = self.images + len(logits) if self.micro_steps else 0

    def _to_exchange(self) -> Tensor:
        """Return a sum of gradients that is no buffer: DDP may broadcast those meanwhile."""
        beta = self._buffer("beta")
        if self._exchanged is None or self._exchanged.device != beta.device:
            self._exchanged = torch.zeros_like(beta)
        return self._exchanged

    def _exchange(self, grad_sum: Tensor, step: list[float]) -> None:
        """Begin to sum ``grad_sum`` over the ranks, for a step at beta's next use."""
        work: Any = dist.all_reduce(grad_sum, async_op=True)
        self._pending = work, grad_sum, step
        if grad_sum.is_cuda and torch.cuda.is_current_stream_capturing():
            self._finish_step()  # a graph ends with all that it began

    def _finish_step(self) -> None:
        """Take the step whose gradients are on their way, if any."""
        if self._pending is None:
            return
        (work, grad_sum, step), self._pending = self._pending, None
        work.wait()
        lr_factor = self._buffer("lr_factor")
        step_beta_(self._buffer("beta"), grad_sum, self.beta_velocity, lr_factor, step)

    def _save_to_state_dict(self, *arguments: Any) -> None:
        self._finish_step()
        super()._save_to_state_dict(*arguments)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self._finish_step()
        super()._load_from_state_dict(*arguments)

    def __getstate__(self) -> dict[str, Any]:
        self._finish_step()
        return self.__dict__.copy()

    @torch.no_grad()
    def expected_true_mass(self) -> Tensor:
        """Return :func:`true_class_mass` of the current beta, a float32 scalar on its device."""
        return true_class_mass(self.beta, self.alpha)

    def extra_repr(self) -> str:
        names = ("num_classes", "alpha", "scale", "label_mode", "beta_grad", "beta_lr")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def true_class_mass(beta: Tensor, alpha: float) -> Tensor:
    """Return the mean over classes of the expected mass of the true class in SPROUT's labels.

    ``E[z_y] = (1 - alpha + alpha * beta_y) / (1 - alpha + alpha * sum(beta))``, in (0, 1], a scalar
    of the dtype of ``beta`` (floating [K], nonnegative), whose share in the concentration is
    ``alpha``. If it is low, labels, and with them logits, say little about the class.

    Example:
        >>> true_class_mass(torch.full((10,), 0.5), alpha=0.01)
        tensor(0.9567)
    """
    rest = 1 - alpha
    return (rest + alpha * beta.mean()) / (rest + alpha * beta.sum())
