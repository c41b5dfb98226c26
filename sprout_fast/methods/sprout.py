"""SPROUT (Cheng et al., AAAI 2021), Algorithm 1, without its second back-propagation."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from sprout_fast.methods.base import Method, MethodSetting, Optimize
from sprout_fast.methods.losses import MixedCrossEntropy
from sprout_fast.nn.loss import SproutLoss

# Under this expected mass on the true class, labels and logits flatten, and flat logits look robust
# under PGD without being so (METHOD.md, "beta's drift").
LOW_MASS = 0.5

MODULES = ("ga", "mixup", "dirichlet", "ls")


class Sprout(Method, name="sprout"):
    """SPROUT: x̃ and ỹ mix N(x_i, sigma²) and N(x_j, sigma²) and their labels by λ ~ Beta(mixup_alpha, mixup_alpha), g =
    I, h = Dirichlet(scale ((1 - alpha) y + alpha beta)), and beta ascends the same loss.

    Args:
        setting: see `MethodSetting`.
        modules: which of its parts are on, for ablations: any of ga, mixup, dirichlet and ls, with
            commas between. ls is label smoothing by alpha towards u = 1/K; with dirichlet, a draw
            around that label, beta staying at u. Options of a part that is off have no effect.
        sigma: standard deviation of the noise, on images in [0,1].
        mixup_alpha: Mixup's weight is drawn from Beta(mixup_alpha, mixup_alpha); 0 turns Mixup off.
        alpha: beta's share in the labels' concentration (1-alpha) y + alpha beta.
        scale: factor on that concentration. The authors' code: 11, with alpha 1/11.
        label_mode: labels drawn from the Dirichlet, or its mean as a control.
        labels_per_pair: one label for the mixed pair, or one for each of the two, whose losses are
            mixed, as in the authors' code.
        beta_init: beta's first value in every class; by default drawn from U(0, 10/K).
        beta_lr: step size of beta's ascent; by default 0.5/K. lr follows the weights' learning
            rate.
        beta_momentum: momentum of the ascent.
        beta_weight_decay: weight decay of beta.
        beta_grad: beta's gradient through the drawn label, in expectation, or none; by default
            implicit under 100 classes, expected from there.
        beta_batch: beta ascends on the mixed batch of the weights' own step, or on the clean batch
            in a forward pass of its own after them, as in the authors' code.
        weight_steps: optimizer steps on each batch, with fresh noise and Mixup. The authors' code:
            3.
        mass_floor: rescale beta to keep this expected mass on the true class; by default off.
    """

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
        learns_labels = "dirichlet" in on
        if not learns_labels:
            smoothing = alpha if "ls" in on else 0.0
            loss = MixedCrossEntropy(setting.num_classes, smoothing, setting.device)
        else:
            loss = SproutLoss(
                setting.num_classes,
                alpha=alpha,
                scale=scale,
                label_mode=label_mode,
                labels_per_pair=labels_per_pair,
                beta_init=1 / setting.num_classes if "ls" in on else beta_init,
                beta_lr=0.0 if beta_lr == "lr" else beta_lr,
                beta_momentum=beta_momentum,
                beta_weight_decay=beta_weight_decay,
                beta_grad="none" if "ls" in on else beta_grad,
                mass_floor=mass_floor,
                accumulation_steps=setting.accumulation_steps,
                seed=setting.seed,
                first_row=setting.first_row,
                device=setting.device,
            )
        super().__init__(mixer, loss)
        self.learns_labels = learns_labels
        if weight_steps < 1:
            raise ValueError(f"weight_steps must be at least 1, got {weight_steps}")
        self.passes = weight_steps
        if beta_batch not in ("mixed", "clean"):
            raise ValueError(f"beta_batch must be 'mixed' or 'clean', got {beta_batch!r}")
        self.clean = None
        if learns_labels and beta_batch == "clean":
            loss.self_progressing = False
            self.clean = setting.mixer()
        self.beta_follows_lr = beta_lr == "lr"

    def training_step(self, optimize: Optimize, images: Tensor, labels: Tensor) -> None:
        if self.beta_follows_lr and self.learns_labels:
            self.loss.beta_lr = optimize.lr
        for _ in range(self.passes):
            inputs, target = self.mixer(images, labels)
            optimize(inputs, target, self.loss)
        if self.clean is not None:
            # The authors' code also goes backward through the network here; beta's gradient needs
            # the logits alone.
            inputs, target = self.clean(images, labels)
            self.loss.ascend(optimize.logits(inputs), target)

    @property
    def beta(self) -> Tensor | None:
        """float32 [K], the class weights that progress by themselves."""
        return self.loss.beta if self.learns_labels else None

    def statistics(self) -> dict[str, float]:
        """The expected mass on the true class and beta's range."""
        if not self.learns_labels:
            return {}
        return {
            "true_class_mass": self.loss.expected_true_mass().item(),
            "beta_min": self.beta.min().item(),
            "beta_mean": self.beta.mean().item(),
            "beta_max": self.beta.max().item(),
        }

    def warning(self) -> str | None:
        """Beta has drifted so far that the labels hardly name the true class any more."""
        mass = self.loss.expected_true_mass().item() if self.learns_labels else 1.0
        if mass >= LOW_MASS:
            return None
        return (
            f"the labels' expected mass on the true class is {mass:.2f}, under {LOW_MASS}: logits"
            " flatten, which looks robust under PGD alone (--mass-floor keeps it up)"
        )


def _modules(listed: str) -> set[str]:
    """The names in ``"ga,mixup"``, checked."""
    on = {name.strip() for name in listed.split(",") if name.strip()}
    if unknown := on - set(MODULES):
        raise ValueError(f"modules takes any of {', '.join(MODULES)}, got {', '.join(unknown)}")
    return on
