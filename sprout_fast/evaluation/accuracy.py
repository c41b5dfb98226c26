"""Accuracy as exact integer counts, clean and under an attack."""

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

# (images in [0,1] float [B,C,H,W], labels int64 [B]) -> images in [0,1] of the same shape
ImageAttack = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Accuracy:
    """`correct` of `total` images; `name` opens the text.

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
                "takes 0 <= correct <= total and total > 0"
            )

    @property
    def top1(self) -> float:
        """The fraction correct, in [0,1]."""
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % score interval of the fraction (Wilson 1927), within [0,1]."""
        z, n, p = NormalDist().inv_cdf(0.975), self.total, self.top1
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
        # At none and all correct the ends are 0 and 1 exactly; rounding would miss them.
        low = centre - half if self.correct > 0 else 0.0
        high = centre + half if self.correct < self.total else 1.0
        return low, high

    @property
    def range(self) -> str:
        """The percentage with its interval, without the name."""
        low, high = self.interval
        return (
            f"{100 * self.top1:.1f} % ({self.correct} of {self.total}; "
            f"95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
        )

    def __str__(self) -> str:
        return f"{self.name} {self.range}" if self.name else self.range


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate_accuracy` found. Losses are mean cross entropies in nats."""

    clean: Accuracy
    top5: Accuracy  # the label among the five largest logits (all of them where there are fewer)
    loss: float
    attacked: Accuracy | None = None
    attacked_loss: float | None = None

    def __str__(self) -> str:
        return "; ".join(str(part) for part in (self.clean, self.attacked) if part is not None)


class _Counts:
    """Sums on the device: nothing is read back until the end."""

    def __init__(self, device: torch.device) -> None:
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.correct5 = torch.zeros((), dtype=torch.int64, device=device)
        self.loss = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        logits = logits.float()
        # A row with NaN is a miss: argmax takes a NaN for the largest and could be "right".
        valid = ~logits.isnan().any(dim=1)
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        # argmax and topk may break a tie differently: top-1 is argmax's, and within the top five.
        top1 = logits.argmax(dim=1) == labels
        self.correct += (top1 & valid).sum()
        self.correct5 += ((ranked.any(dim=1) | top1) & valid).sum()
        self.loss += F.cross_entropy(logits, labels, reduction="sum")


def evaluate_accuracy(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    device: torch.device | str,
    amp_dtype: torch.dtype | None = None,
    max_images: int | None = None,
    attack: ImageAttack | None = None,
) -> Evaluation:
    """Top-1, top-5 and cross entropy of `model` on a loader's images, clean and attacked.

    Args:
        model: takes images in [0,1], float [B,C,H,W], gives logits [B,K] (see `Normalized`). It is
            in eval mode meanwhile, and each module's mode is restored.
        loader: yields (images, labels int64 [B]); uint8 images are divided by 255, floating ones
            are taken as they are, in [0,1].
        device: where model, images and counts are.
        amp_dtype: torch.bfloat16 or torch.float16 runs the counted forward passes under autocast.
            The attack runs outside of it.
        max_images: only the first so many, exactly; the last batch is cut. With
            torch.distributed it is split over the ranks.
        attack: called with each batch's images and labels, gives the images to count instead. The
            clean counts are of the same images.

    With torch.distributed initialised, every rank must call it; each counts its own shard, the
    counts are summed over the ranks, and all ranks get the same result.

    Raises:
        ValueError: max_images < 1 (or fewer than there are ranks).
        UserError: the loader gave no image.
    """
    device = torch.device(device)
    limit = _share_of_this_rank(max_images)
    clean, attacked = _Counts(device), _Counts(device)
    seen = 0
    with evaluation_mode(model), torch.no_grad():
        for images, labels in loader:
            if limit is not None and seen + len(labels) > limit:
                images, labels = images[: limit - seen], labels[: limit - seen]
            images = images.to(device, non_blocking=True)
            labels = labels.to(device, non_blocking=True)
            images = images.float() / 255 if images.dtype == torch.uint8 else images
            with _autocast(device, amp_dtype):
                logits = model(images)
            clean.add(logits, labels)
            if attack is not None:
                adversarial = attack(images, labels)
                with _autocast(device, amp_dtype):
                    logits = model(adversarial)
                attacked.add(logits, labels)
            seen += len(labels)
            if seen == limit:
                break  # before the loader makes a batch that nobody reads

    counts = torch.stack(
        [clean.correct, clean.correct5, attacked.correct, torch.full_like(clean.correct, seen)]
    )
    losses = torch.stack([clean.loss, attacked.loss])
    if _ranks() > 1:
        dist.all_reduce(counts)
        dist.all_reduce(losses)
    correct, correct5, attacked_correct, total = counts.tolist()
    loss, attacked_loss = losses.tolist()
    if total == 0:
        raise UserError("evaluation: the loader gave no image")
    return Evaluation(
        clean=Accuracy(correct, total, "clean"),
        top5=Accuracy(correct5, total, "top-5"),
        loss=loss / total,
        attacked=None if attack is None else Accuracy(attacked_correct, total, "under attack"),
        attacked_loss=None if attack is None else attacked_loss / total,
    )


def _ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _share_of_this_rank(max_images: int | None) -> int | None:
    if max_images is None:
        return None
    ranks = _ranks()
    if max_images < ranks:
        raise ValueError(f"max_images: got {max_images}, takes None or at least {ranks}")
    rank = dist.get_rank() if ranks > 1 else 0
    return max_images // ranks + (rank < max_images % ranks)


def _autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
