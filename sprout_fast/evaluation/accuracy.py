"""Accuracy as exact integer counts, on clean and on attacked images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import NormalDist

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from sprout_fast.errors import UserError
from sprout_fast.models.mode import evaluation_mode

# (images [B,C,H,W] floating point in [0,1], labels int64 [B]) -> images of the same shape in [0,1]
ImageAttack = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Accuracy:
    """A number of correctly classified images, with its 95 % confidence interval.

    Args:
        correct: correctly classified images, from 0 to ``total``.
        total: images classified, at least 1.
        name: prefix of the text, e.g. ``"clean"``.

    Raises:
        ValueError: the counts are outside these ranges.

    >>> print(Accuracy(174, 200, "clean"))
    clean 87.0 % (174 of 200; 95 % interval 81.6 to 91.0 %)
    >>> Accuracy(174, 200).top1
    0.87
    """

    correct: int
    total: int
    name: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.total or self.total == 0:
            raise ValueError(
                f"Accuracy: got {self.correct} correct of {self.total}, "
                "expected 0 <= correct <= total and total > 0"
            )

    @property
    def top1(self) -> float:
        """Fraction of the images that are classified correctly, in [0,1]."""
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % score interval of the fraction (Wilson, JASA 1927), within [0,1]."""
        z, n, p = NormalDist().inv_cdf(0.975), self.total, self.top1
        center = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
        # With none or all correct the bound is exactly 0 or 1, which rounding would miss.
        low = center - half if self.correct > 0 else 0.0
        high = center + half if self.correct < self.total else 1.0
        return low, high

    @property
    def range(self) -> str:
        """Percentage, counts and interval, without the name."""
        low, high = self.interval
        return (
            f"{100 * self.top1:.1f} % ({self.correct} of {self.total}; "
            f"95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
        )

    def __str__(self) -> str:
        return f"{self.name} {self.range}" if self.name else self.range


@dataclass(frozen=True)
class MeasuredAccuracy:
    """Result of :func:`measure_accuracy`: top-1 accuracy and mean cross entropy, in nats.

    Attributes:
        clean, loss: on the clean images.
        top5: accuracy of the five largest logits on the clean images (of all logits if there are
            fewer than five).
        attacked, attacked_loss: on the attacked images, or None without an attack.
    """

    clean: Accuracy
    top5: Accuracy
    loss: float
    attacked: Accuracy | None = None
    attacked_loss: float | None = None

    def __str__(self) -> str:
        return "; ".join(str(part) for part in (self.clean, self.attacked) if part is not None)


def measure_accuracy(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    device: torch.device | str,
    amp_dtype: torch.dtype | None = None,
    attack: ImageAttack | None = None,
) -> MeasuredAccuracy:
    """Measure top-1 and top-5 accuracy and cross entropy on a loader's images.

    With ``torch.distributed`` initialized, every rank must call this function with its own shard.
    The counts are summed over the ranks, and all ranks return the same result.

    Args:
        model: maps images in [0,1], floating point [B,C,H,W], to logits [B,K]; wrap a model that
            expects normalized images in :class:`~sprout_fast.models.Normalized`. It is evaluated in
            eval mode; the mode of each of its modules is restored afterwards.
        loader: yields (images [B,C,H,W], labels int64 [B]). Images are uint8, and then divided by
            255, or floating point in [0,1].
        device: device of the model, to which the batches are moved.
        amp_dtype: ``torch.bfloat16`` or ``torch.float16`` evaluates the model under autocast. The
            attack runs outside autocast.
        attack: maps a batch's images and labels to attacked images; both are then classified.

    Returns:
        The accuracies with their exact counts, and the mean losses.

    Raises:
        UserError: the loader yields no images.

    >>> batch = torch.rand(6, 3, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    >>> measure_accuracy(model, [batch], device="cpu").clean.total
    6
    """
    device = torch.device(device)
    # Sums on the device, which are not read back before the end. float64 counts exactly.
    clean, attacked = torch.zeros(2, 3, dtype=torch.float64, device=device)
    seen = 0
    with evaluation_mode(model), torch.no_grad():
        for images, labels in loader:
            images = images.to(device, non_blocking=True)
            labels = labels.to(device, non_blocking=True)
            images = images.float() / 255 if images.dtype == torch.uint8 else images
            clean += _sums(model, images, labels, amp_dtype)
            if attack is not None:
                attacked += _sums(model, attack(images, labels), labels, amp_dtype)
            seen += len(labels)

    sums = torch.stack([clean, attacked, torch.full_like(clean, seen)])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(sums)
    (correct, correct5, loss), (attacked_correct, _, attacked_loss), (total, *_) = sums.tolist()
    if total == 0:
        raise UserError("the loader yields no images")
    under_attack = Accuracy(int(attacked_correct), int(total), "under attack")
    return MeasuredAccuracy(
        clean=Accuracy(int(correct), int(total), "clean"),
        top5=Accuracy(int(correct5), int(total), "top-5"),
        loss=loss / total,
        attacked=None if attack is None else under_attack,
        attacked_loss=None if attack is None else attacked_loss / total,
    )


def _sums(
    model: nn.Module, images: Tensor, labels: Tensor, amp_dtype: torch.dtype | None
) -> Tensor:
    """Return the number of top-1 and top-5 correct images and the sum of their losses [3]."""
    with torch.autocast(images.device.type, dtype=amp_dtype, enabled=amp_dtype is not None):
        logits = model(images).float()
    # A row with NaN is misclassified: argmax returns the NaN's index, which could be the label.
    valid = ~logits.isnan().any(dim=1)
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    # argmax and topk may break ties differently. Top-1 uses argmax, and implies top-5.
    top1 = logits.argmax(dim=1) == labels
    top5 = ranked.any(dim=1) | top1
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return torch.stack([(top1 & valid).sum(), (top5 & valid).sum(), loss])
