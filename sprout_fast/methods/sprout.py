"""SPROUT, Algorithm 1, without its second back-propagation."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from sprout_fast.methods.base import Method, MethodSetting, Optimize
from sprout_fast.methods.losses import MixedCrossEntropy
from sprout_fast.nn.loss import SproutLoss

# Below this expected mass on the true class, labels and logits flatten, and flat logits look robust
# under PGD without being robust (docs/method.md, item 5 of "What sprout_fast adds").
LOW_MASS = 0.5

MODULES = ("ga", "mixup", "dirichlet", "ls")


class Sprout(Method, name="sprout"):
    """SPROUT (Cheng et al., AAAI 2021): Gaussian augmentation, Mixup and Dirichlet labels.

    x̃ and ỹ mix N(x_i, sigma²) and N(x_j, sigma²) and their labels by λ ~ Beta(mixup_alpha,
    mixup_alpha), g = I, h = Dirichlet(scale ((1 - alpha) y + alpha beta)), and beta ascends the
    same loss.

    Args:
        modules: parts that are on, for ablations, separated by commas: any of ga, mixup, dirichlet
            and ls (label smoothing by alpha, which with dirichlet keeps beta at 1/K); options of a
            part that is off have no effect.
        sigma: standard deviation of the Gaussian noise, on images in [0, 1].
        mixup_alpha: parameter of λ ~ Beta(mixup_alpha, mixup_alpha); 0 turns Mixup off.
        alpha: beta's weight in the labels' concentration (1-alpha) y + alpha beta, in [0, 1].
        scale: factor on the labels' concentration; the authors' code has 11, with alpha 1/11.
        label_mode: labels are drawn from the Dirichlet (sample) or are its mean, as a control.
        labels_per_pair: one label for the mixed pair, or one for each of the two images, whose
            losses are mixed, as in the authors' code.
        beta_init: initial beta of every class; by default drawn from U(0, 10/K).
        beta_lr: rate of beta's ascent per image, which follows the schedule of the weights'
            learning rate; by default 1/(256 K), which is 0.5/K on a batch of 128. Or lr for steps
            of the size of the weights' learning rate, whatever the batch size.
        beta_momentum: momentum of beta's ascent.
        beta_weight_decay: weight decay of beta.
        beta_grad: gradient of beta through the drawn label (implicit), in expectation, or none; by
            default implicit below 100 classes and expected from there.
        beta_batch: beta ascends on the mixed batch of the weights' own step, or afterwards on the
            clean batch with a separate forward pass, as in the authors' code.
        weight_steps: optimizer steps per batch, each with new noise and Mixup; the authors' code
            has 3.
        mass_floor: smallest expected mass on the true class, in (1/K, 1), kept by rescaling beta; 0
            for none. By default none below 100 classes and 0.9 from there.
    """

    capturable = True

    def __init__(
        self,
        setting: MethodSetting,
        *,
        modules: str = "ga,mixup,dirichlet",
        sigma: float = 0.1,
        mixup_alpha: float = 0.2,
        alpha: float = 0.01,
        scale: float = 1.0,
        label_mode: Literal["sample", "mean"] = "sample",
        labels_per_pair: Literal[1, 2] = 1,
        beta_init: float | None = None,
        beta_lr: float | Literal["lr"] | None = None,
        beta_momentum: float = 0.0,
        beta_weight_decay: float = 0.0,
        beta_grad: Literal["implicit", "expected", "none"] | None = None,
        beta_batch: Literal["mixed", "clean"] = "mixed",
        weight_steps: int = 1,
        mass_floor: float | None = None,
    ) -> None:
        on = _modules(modules)
        mixer = setting.mixer(sigma if "ga" in on else 0.0, mixup_alpha if "mixup" in on else 0.0)
        if weight_steps < 1:
            raise ValueError(f"weight_steps: got {weight_steps}, expected an int >= 1")
        if beta_batch not in ("mixed", "clean"):
            raise ValueError(f"beta_batch: got {beta_batch!r}, expected 'mixed' or 'clean'")
        if isinstance(beta_lr, str) and beta_lr != "lr":
            raise ValueError(f"beta_lr: got {beta_lr!r}, expected a number or 'lr'")
        if "dirichlet" in on:
            loss = SproutLoss(
                setting.num_classes,
                alpha=alpha,
                scale=scale,
                label_mode=label_mode,
                labels_per_pair=labels_per_pair,
                beta_init=1 / setting.num_classes if "ls" in on else beta_init,
                beta_lr=1.0 if isinstance(beta_lr, str) else beta_lr,
                beta_lr_unit="step" if isinstance(beta_lr, str) else "image",
                beta_momentum=beta_momentum,
                beta_weight_decay=beta_weight_decay,
                beta_grad="none" if "ls" in on else beta_grad,
                mass_floor=mass_floor,
                accumulation_steps=setting.accumulation_steps,
                self_progressing=beta_batch == "mixed",
                seed=setting.seed,
                first_row=setting.first_row,
                device=setting.device,
            )
        else:
            smoothing = alpha if "ls" in on else 0.0
            loss = MixedCrossEntropy(setting.num_classes, smoothing, setting.device)
        super().__init__(mixer, loss)
        self.passes = weight_steps
        self.clean = setting.mixer() if "dirichlet" in on and beta_batch == "clean" else None
        self.beta_follows_lr = beta_lr == "lr"

    @property
    def _dirichlet(self) -> SproutLoss | None:
        """The loss, if it has a beta."""
        return self.loss if isinstance(self.loss, SproutLoss) else None

    def training_step(self, optimize: Optimize, images: Tensor, labels: Tensor) -> None:
        if self._dirichlet is not None:
            self._dirichlet.lr_factor.fill_(
                optimize.lr if self.beta_follows_lr else optimize.lr_factor
            )
        for _ in range(self.passes):
            inputs, target = self.mixer(images, labels)
            optimize(inputs, target, self.loss)
        if self.clean is not None and self._dirichlet is not None:
            # The authors' code also goes backward through the network here; beta's gradient needs
            # only the logits.
            inputs, target = self.clean(images, labels)
            self._dirichlet.ascend(optimize.logits(inputs), target)

    @property
    def beta(self) -> Tensor | None:
        """The class weights that progress by themselves, float32 [K]."""
        return None if self._dirichlet is None else self._dirichlet.beta

    def statistics(self) -> dict[str, float]:
        """Return the expected mass on the true class and beta's range."""
        if self._dirichlet is None:
            return {}
        beta = self._dirichlet.beta
        return {
            "true_class_mass": self._dirichlet.expected_true_mass().item(),
            "beta_min": beta.min().item(),
            "beta_mean": beta.mean().item(),
            "beta_max": beta.max().item(),
        }

    def warning(self) -> str | None:
        """Return a warning if beta has drifted so far that labels hardly name the true class."""
        mass = 1.0 if self._dirichlet is None else self._dirichlet.expected_true_mass().item()
        if mass >= LOW_MASS:
            return None
        return (
            f"the labels' expected mass on the true class is {mass:.2f}, below {LOW_MASS}: logits"
            " flatten, which looks robust under PGD alone (set mass_floor to keep it up)"
        )


def _modules(listed: str) -> set[str]:
    """Return the names in ``"ga,mixup"``, checked."""
    on = {name.strip() for name in listed.split(",") if name.strip()}
    if unknown := on - set(MODULES):
        raise ValueError(
            f"modules: got {', '.join(sorted(unknown))}, expected any of {', '.join(MODULES)}"
        )
    return on
