"""Free adversarial training."""

from __future__ import annotations

import torch
from torch import Tensor

from sprout_fast.methods.base import Method, MethodSetting, Optimize
from sprout_fast.methods.linf import check_unit, unit_images
from sprout_fast.methods.losses import CrossEntropy
from sprout_fast.ops.pgd_step import pgd_step_


class FreeAdversarialTraining(Method, name="free_at"):
    """Free adversarial training (Shafahi et al. 2019): x̃ = x + delta, ỹ = y, g = h = I.

    Each batch is replayed ``replays`` times, and each backward pass serves both the weights and
    delta, which is kept from batch to batch: delta <- clip(delta + eps sign(gradient), ±eps).

    Args:
        eps: radius of the l-inf ball, on images in [0, 1].
        replays: optimizer steps per batch; the paper uses 8 on CIFAR-10 and divides the number of
            epochs by it, while epochs here are passes over the data.
    """

    capturable = True

    def __init__(self, setting: MethodSetting, *, eps: float = 8 / 255, replays: int = 8) -> None:
        super().__init__(setting.mixer(), CrossEntropy())
        check_unit("eps", eps)
        if replays < 1:
            raise ValueError(f"replays: got {replays}, expected an int >= 1")
        self.eps = eps
        self.passes = replays
        self.delta = torch.zeros(0)  # has the batch's shape from the first batch on

    def get_extra_state(self) -> Tensor:
        """Return delta for the state dict: a buffer would need its shape before the first batch."""
        return self.delta.clone()

    def set_extra_state(self, state: Tensor) -> None:
        """Restore delta."""
        self.delta = state

    def training_step(self, optimize: Optimize, images: Tensor, labels: Tensor) -> None:
        images = unit_images(images)
        if self.delta.shape != images.shape:
            self.delta = torch.zeros_like(images)
        self.delta = self.delta.to(images.device)
        center = torch.zeros_like(images)
        for _ in range(self.passes):
            delta = self.delta.requires_grad_()
            inputs, target = self.mixer((images + delta).clamp(0, 1), labels)
            optimize(inputs, target, self.loss)
            assert delta.grad is not None  # from optimize's backward pass
            self.delta = delta.detach()  # in the same memory, where a replayed graph expects it
            eps = self.eps
            pgd_step_(self.delta, delta.grad, center, step=eps, eps=eps, lower=-eps, upper=eps)
