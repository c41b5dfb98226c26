"""Stability training."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sprout_fast.methods.base import Method, MethodSetting, Optimize
from sprout_fast.methods.losses import CrossEntropy
from sprout_fast.nn.mixup import MixupTarget
from sprout_fast.ops.generalized_cross_entropy import generalized_cross_entropy


class StableTraining(Method, name="stable"):
    """Stability training (Zheng et al. 2016): x̃ ~ N(x, sigma²), ỹ = y.

    The loss is the original's, CE(f(x), y) + stability H(f(x), f(x̃)), where the second term is the
    cross entropy -sum_k f(x)_k log f(x̃)_k. Table 1 writes it as g = f(x) ∘ f(x̃), h = I, whose
    eq. (4) is CE(f(x), y) + CE(f(x̃), y): there the noisy image is trained on the label, here on the
    network's own prediction for the clean image.

    Args:
        sigma: standard deviation of the Gaussian noise, on images in [0, 1].
        stability: weight of the stability term; Zheng et al. use 0.01 for classification.
    """

    capturable = True

    def __init__(
        self, setting: MethodSetting, *, sigma: float = 0.1, stability: float = 0.01
    ) -> None:
        super().__init__(setting.mixer(sigma), CrossEntropy())
        if not 0 <= stability < float("inf"):
            raise ValueError(f"stability: got {stability}, expected a finite number >= 0")
        self.clean = setting.mixer()
        self.stability = stability

    def training_step(self, optimize: Optimize, images: Tensor, labels: Tensor) -> None:
        noisy, target = self.mixer(images, labels)
        clean, _ = self.clean(images, labels)
        optimize((clean, noisy), target, self._objective)

    def _objective(self, logits: Sequence[Tensor], target: MixupTarget) -> Tensor:
        clean, noisy = logits
        stability = generalized_cross_entropy(noisy, clean.float().softmax(1))
        return self.loss(clean, target) + self.stability * stability
