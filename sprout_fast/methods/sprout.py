"""SPROUT (Cheng et al., AAAI 2021), Algorithm 1, without its second back-propagation."""

from __future__ import annotations

from torch import Tensor

from sprout_fast import SproutLoss, SproutMixup
from sprout_fast.methods.base import Method, MethodSetting

# Under this expected mass on the true class, labels and logits flatten, and flat logits look robust
# under PGD without being so (METHOD.md, "beta's drift").
LOW_MASS = 0.5


class Sprout(Method):
    """Gaussian noise, Mixup, and Dirichlet labels whose parameter beta ascends the same loss.

    Args:
        setting: see `MethodSetting`.
        sigma: standard deviation of the noise, on [0,1] images; >= 0.
        a: Mixup's weight is drawn from Beta(a, a); 0 turns Mixup off.
        alpha, scale: the labels' concentration is scale * ((1-alpha) y + alpha beta).
        labels_from: "dirichlet", or "mean" as the control.
        beta_lr: step of beta's ascent; None chooses by the number of classes.
        beta_grad: "implicit", "expected", "none"; None chooses by the number of classes.
        mass_floor: rescale beta to keep this expected mass on the true class; None leaves it.
    """

    def __init__(
        self,
        setting: MethodSetting,
        *,
        sigma: float = 0.1,
        a: float = 0.2,
        alpha: float = 0.01,
        scale: float = 1.0,
        labels_from: str = "dirichlet",
        beta_lr: float | None = None,
        beta_grad: str | None = None,
        mass_floor: float | None = None,
    ) -> None:
        mixer = SproutMixup(
            sigma,
            a,
            mean=setting.mean,
            std=setting.std,
            dtype=setting.dtype,
            seed=setting.seed,
            first_row=setting.first_row,
            device=setting.device,
        )
        loss = SproutLoss(
            setting.num_classes,
            alpha=alpha,
            scale=scale,
            labels_from=labels_from,
            beta_lr=beta_lr,
            beta_grad=beta_grad,
            mass_floor=mass_floor,
            accumulation_steps=setting.accumulation_steps,
            seed=setting.seed,
            first_row=setting.first_row,
            device=setting.device,
        )
        super().__init__(mixer, loss)

    @property
    def beta(self) -> Tensor:
        """float32 [K], the class weights that progress by themselves."""
        return self.loss.beta

    def statistics(self) -> dict[str, float]:
        """The expected mass on the true class and beta's range."""
        return {
            "true_class_mass": self.loss.expected_true_mass().item(),
            "beta_min": self.beta.min().item(),
            "beta_mean": self.beta.mean().item(),
            "beta_max": self.beta.max().item(),
        }

    def warning(self) -> str | None:
        """Beta has drifted so far that the labels hardly name the true class any more."""
        mass = self.loss.expected_true_mass().item()
        if mass >= LOW_MASS:
            return None
        return (
            f"the labels' expected mass on the true class is {mass:.2f}, under {LOW_MASS}: logits"
            " flatten, which looks robust under PGD alone (--mass-floor keeps it up)"
        )
