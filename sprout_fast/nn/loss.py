"""SPROUT's loss with its self-progressing label parameter beta as one module."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sprout_fast.nn.mixup import MixupTarget
from sprout_fast.ops.sprout_loss import sprout_loss_and_grad_beta
from sprout_fast.random import PhiloxState


class SproutLoss(nn.Module):
    """SPROUT's loss with its self-progressing label parameter beta: Algorithm 1, steps 3 to 5.

    ``beta`` is a buffer, and it progresses itself: in training mode the forward pass ascends it
    with the gradient that the fused pass has at hand, outside autograd, so that loss scaling,
    gradient clipping and whatever optimiser steps the model never touch it. Backward uses the beta
    that its forward saw.

    beta_0 ~ U(0, 10/K), so that the expected mass on the true class is about .95 at every K, and
    after a step beta is projected onto [1e-3/K, inf): at 0 the implicit gradient vanishes and the
    class could never come back.

    Args:
        num_classes: K.
        alpha, scale, label_mode: see :func:`sprout_fast.sprout_loss`.
        labels_per_pair: ``"one"``: a label for the mixed pair; ``"each"``: one for each of the two, the
            losses mixed by lam, which has to be one for the batch: the authors' code.
        beta_init: beta_0 in every class; None draws it, see above.
        beta_grad: ``"implicit"``, ``"expected"`` or ``"none"``; None: implicit below 100 classes,
            expected from there on, where the implicit gradient's noise swamps its mean.
        beta_lr: gamma_beta, the ascent's step size; None: 0.05 x 10/K, in proportion to beta_0.
        beta_momentum, beta_weight_decay: of the ascent, as ``torch.optim.SGD(maximize=True)`` has
            them; 0 in the paper, 0.9 and 5e-4 in the authors' code.
        mass_floor: keep the expected mass on the true class at least here, in (0, 1), by scaling
            beta down after a step; None: no floor, as in the paper.
        accumulation_steps: forward passes to an ascent step, whose gradients are averaged.
        self_progressing: False leaves beta's steps to :meth:`ascend`.
        seed, first_row, device: of the random state, see :class:`PhiloxState`. beta_0 depends on
            the seed alone, so it is the same on every rank.

    Under torch.distributed the ascent averages the gradient over ranks (one all-reduce of K
    floats). A gradient that is not finite (a diverging AMP step) skips the step.

    Example:
        >>> loss_fn = SproutLoss(num_classes=3)
        >>> logits = torch.zeros(4, 3, requires_grad=True)
        >>> loss_fn(logits, MixupTarget(torch.tensor([0, 1, 2, 0]))).backward()
        >>> logits.grad.shape
        torch.Size([4, 3])
    """

    beta: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        alpha: float = 0.01,
        scale: float = 1.0,
        label_mode: str = "sample",
        labels_per_pair: Literal[1, 2] = 1,
        beta_init: float | None = None,
        beta_grad: str | None = None,
        beta_lr: float | None = None,
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
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}")
        if beta_grad not in (None, "implicit", "expected", "none"):
            raise ValueError(
                f"beta_grad must be 'implicit', 'expected', 'none' or None, got {beta_grad!r}"
            )
        if labels_per_pair not in (1, 2):
            raise ValueError(f"labels_per_pair must be 1 or 2, got {labels_per_pair!r}")
        if not 1e-30 <= scale <= 1e30:
            raise ValueError(f"scale must be in [1e-30, 1e30], got {scale}")
        if beta_init is not None and not 0 <= beta_init <= 1e6:
            raise ValueError(f"beta_init must be in [0, 1e6] or None, got {beta_init}")
        for name, value in (
            ("beta_lr", 0 if beta_lr is None else beta_lr),
            ("beta_momentum", beta_momentum),
            ("beta_weight_decay", beta_weight_decay),
        ):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a number from 0 up, got {value}")
        if accumulation_steps < 1:
            raise ValueError(f"accumulation_steps must be at least 1, got {accumulation_steps}")
        if mass_floor is not None and not 1 / num_classes < mass_floor < 1:
            raise ValueError(
                f"mass_floor must be in (1/{num_classes}, 1) or None, got {mass_floor}:"
                " a label that says nothing leaves each class 1/K"
            )
        self.num_classes, self.alpha, self.scale = num_classes, alpha, scale
        self.label_mode, self.labels_per_pair = label_mode, labels_per_pair
        self.self_progressing = self_progressing
        self.beta_grad = beta_grad or ("implicit" if num_classes < 100 else "expected")
        self.beta_lr = 0.5 / num_classes if beta_lr is None else beta_lr
        self.beta_momentum, self.beta_weight_decay = beta_momentum, beta_weight_decay
        self.mass_floor, self.accumulation_steps = mass_floor, accumulation_steps
        self.beta_min = 1e-3 / num_classes
        self.rng = PhiloxState(seed, device, first_row)
        beta = torch.rand(num_classes, generator=torch.Generator().manual_seed(seed))
        beta = beta * 10 / num_classes if beta_init is None else torch.full_like(beta, beta_init)
        self.register_buffer("beta", beta.clamp(min=self.beta_min).to(device))
        # float32 [K]: the momentum, and the gradients summed since the last step.
        self.register_buffer("beta_velocity", torch.zeros_like(self.beta))
        self.register_buffer("beta_grad_sum", torch.zeros_like(self.beta))
        self.micro_steps = 0  # gradients in that sum; not a buffer, whose reading would be a sync

    def get_extra_state(self) -> Tensor:
        """For the state_dict, which then also resumes between two steps of beta."""
        return torch.tensor(self.micro_steps)

    def set_extra_state(self, state: Tensor) -> None:
        self.micro_steps = int(state)

    def forward(self, logits: Tensor, target: MixupTarget | Tensor) -> Tensor:
        """The mean loss of a batch; in training mode beta takes its step.

        Args:
            logits: [B, K], any floating type.
            target: what :class:`SproutMixup` returned, or plain int64 [B] labels.

        Returns:
            The mean loss, a float32 scalar (float64 for float64 logits).
        """
        progresses = self.training and self.self_progressing and self.beta_grad != "none"
        loss, grad_beta = self._loss_and_grad_beta(logits, target, progresses)
        if progresses:
            self._ascend(grad_beta.detach())
        return loss

    @torch.no_grad()
    def ascend(self, logits: Tensor, target: MixupTarget | Tensor) -> None:
        """A step of beta on logits [B, K] of its own, for ``self_progressing=False``."""
        if self.beta_grad != "none":
            self._ascend(self._loss_and_grad_beta(logits, target, True)[1])

    def _loss_and_grad_beta(
        self, logits: Tensor, target: MixupTarget | Tensor, wants_grad: bool
    ) -> tuple[Tensor, Tensor]:
        if isinstance(target, Tensor):
            target = MixupTarget(target)
        options = {
            "alpha": self.alpha,
            "scale": self.scale,
            "label_mode": self.label_mode,
            "beta_grad": self.beta_grad if wants_grad else "none",
        }
        beta = self.beta.clone()  # backward needs it as it is now, and a step changes it

        def drawn(*target: Tensor | None) -> tuple[Tensor, Tensor]:
            rng_state = self.rng.next() if self.training else self.rng.state
            return sprout_loss_and_grad_beta(logits, *target, beta, rng_state, **options)

        if self.labels_per_pair == 1 or target.lam is None:
            return drawn(*target)
        if target.lam.numel() != 1:
            raise ValueError(
                f"labels_per_pair=2 takes one lam for the batch, got {target.lam.numel()}"
            )
        lam = target.lam.squeeze()
        own = drawn(target.labels, None, None)
        partners = drawn(target.partner_labels, None, None)
        return tuple(lam * a + (1 - lam) * b for a, b in zip(own, partners, strict=True))

    @torch.no_grad()
    def _ascend(self, grad: Tensor) -> None:
        if self.accumulation_steps > 1:
            self.beta_grad_sum += grad
            self.micro_steps = (self.micro_steps + 1) % self.accumulation_steps
            if self.micro_steps:
                return
            grad = self.beta_grad_sum / self.accumulation_steps
            self.beta_grad_sum.zero_()
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            grad = grad.clone()
            dist.all_reduce(grad)
            grad /= dist.get_world_size()
        # Chosen on the device: looking at the gradient here would stall the stream.
        finite = grad.isfinite().all()
        if self.beta_weight_decay:
            grad = grad - self.beta_weight_decay * self.beta
        if self.beta_momentum:
            velocity = self.beta_momentum * self.beta_velocity + grad
            self.beta_velocity.copy_(torch.where(finite, velocity, self.beta_velocity))
            grad = velocity
        self.beta.add_(torch.where(finite, grad, 0.0), alpha=self.beta_lr)
        self.beta.clamp_(min=self.beta_min)
        if self.mass_floor is not None:
            # Mean true-class mass m = (1 - alpha + alpha s / K) / (1 - alpha + alpha s), s = sum of
            # beta: solved for the s at which m is the floor.
            rest, k = 1 - self.alpha, self.num_classes
            slope = self.alpha * (self.mass_floor - 1 / k)
            largest = rest * (1 - self.mass_floor) / slope if slope > 0 else math.inf
            self.beta.mul_((largest / self.beta.sum()).clamp(max=1)).clamp_(min=self.beta_min)

    @torch.no_grad()
    def expected_true_mass(self) -> Tensor:
        """`true_class_mass` of this loss's beta, a float32 scalar on its device."""
        return true_class_mass(self.beta, self.alpha)

    def extra_repr(self) -> str:
        return (
            f"num_classes={self.num_classes}, alpha={self.alpha}, scale={self.scale}, "
            f"label_mode={self.label_mode!r}, beta_grad={self.beta_grad!r}, "
            f"beta_lr={self.beta_lr}"
        )


def true_class_mass(beta: Tensor, alpha: float) -> Tensor:
    """Mean over classes of E[z_y] = (1 - alpha + alpha beta_y) / (1 - alpha + alpha sum(beta)).

    What the labels that SPROUT draws leave to the true class, in (0, 1]. Falling far, it means
    labels, and with them logits, that say little about the class.

    >>> true_class_mass(torch.full((10,), 0.5), alpha=0.01)
    tensor(0.9567)
    """
    rest = 1 - alpha
    return (rest + alpha * beta.mean()) / (rest + alpha * beta.sum())
