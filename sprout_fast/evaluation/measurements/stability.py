"""Whether the model is one fixed, continuous function of one image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sprout_fast.attacks.base import borrowed, value_and_gradient
from sprout_fast.attacks.losses import margin
from sprout_fast.attacks.pgd import pgd
from sprout_fast.evaluation.measurements.base import Batch, Measurement
from sprout_fast.evaluation.names import NormName
from sprout_fast.evaluation.subject import Subject, fingerprint


@dataclass(frozen=True)
class Stability(Measurement):
    """Many passes over a few images, at the images and at attacked ones.

    A model that is random in one call of 8 looks deterministic in n passes with probability
    (7/8)^n: 51 % for 5 passes, 0.02 % for 64. Passes over few images cost little next to attacks.

    Args:
        norm: norm of the ball of the attacked images, which are found by PGD on the margin.
        eps: its radius.
        passes: passes over the images, and over the attacked images.

    Columns, where a change is the largest absolute difference of a logit, divided by the range of
    the image's logits: ``repeated`` and ``repeated_attacked`` (change between passes),
    ``wrong_passes`` (fraction of passes in which the attacked image is misclassified), ``alone``
    and ``permuted`` (change between an image in the batch, and alone or in the reversed batch),
    ``nearby`` (change by noise of size eps / 1000), ``gradient`` (largest change of the margin's
    gradient between passes, divided by its length), ``backward_passes`` (within the forward pass)
    and ``rewritten`` (whether a forward pass changes parameters or buffers).
    """

    name: str = "stability"
    norm: NormName = "linf"
    eps: float = 8 / 255
    passes: int = 64

    limit: ClassVar[int | None] = 8
    only_correct: ClassVar[bool] = True

    def measure(self, subject: Subject, batch: Batch) -> dict[str, Tensor]:
        images, labels = batch.images, batch.labels
        cuda = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(batch.seed)  # for models that draw random numbers
            before = fingerprint(dataclasses.replace(subject, surrogate=None))
            with counted_backward_passes() as backward_passes:
                logits = subject.logits(images)
            after = fingerprint(dataclasses.replace(subject, surrogate=None))
            attacked = pgd(
                subject.model,
                images,
                labels,
                norm=self.norm,
                eps=self.eps,
                loss="margin",
                generator=batch.generator(),
            )
            repeated = [subject.logits(images) for _ in range(self.passes)]
            repeated_attacked = [subject.logits(attacked) for _ in range(self.passes)]
            alone = torch.cat([subject.logits(image[None]) for image in images])
            permuted = subject.logits(images.flip(0)).flip(0)
            count = images[0].numel()
            size = self.eps / 1000 / {"linf": 1, "l2": count**0.5}.get(self.norm, count)
            noise = torch.rand(images.shape, generator=batch.generator(), device=images.device)
            noise = size * (2 * noise - 1).sign()
            nearby = subject.logits((images + noise.to(images.dtype)).clamp(0, 1))
            gradients = _gradients(subject, batch, max(self.passes // 2, 2))
        wrong = torch.stack([one.argmax(1) != labels for one in repeated_attacked])
        first = gradients[0].norm(dim=1)
        change = torch.stack([(one - gradients[0]).norm(dim=1) for one in gradients[1:]]).amax(0)
        return {
            "repeated": torch.stack([_change(one, logits) for one in repeated]).amax(0),
            "repeated_attacked": torch.stack(
                [_change(one, repeated_attacked[0]) for one in repeated_attacked[1:]]
            ).amax(0),
            "wrong_passes": wrong.double().mean(0),
            "alone": _change(alone, logits),
            "permuted": _change(permuted, logits),
            "nearby": _change(nearby, logits),
            "gradient": torch.where(change > 0, change / first, 0),
            "backward_passes": torch.full_like(labels, backward_passes()),
            "rewritten": torch.full_like(labels, before != after).bool(),
        }


def _change(logits: Tensor, others: Tensor) -> Tensor:
    """Return the largest difference of a logit [B], divided by the range of ``others`` [B,K]."""
    difference = (logits - others).abs().amax(1)
    return torch.where(difference > 0, difference / (others.amax(1) - others.amin(1)), 0)


def _gradients(subject: Subject, batch: Batch, passes: int) -> list[Tensor]:
    copies = borrowed("stability", subject.model, batch.images, batch.labels, None, batch.seed)
    with copies as (images, labels, _):
        return [
            value_and_gradient(subject.model, images, lambda z: margin(z, labels))[2].flatten(1)
            for _ in range(passes)
        ]


@contextmanager
def counted_backward_passes() -> Iterator[Callable[[], int]]:
    """Count the backward passes inside, over graphs that are made inside.

    Yields a function that returns the number so far. A pass is a series of reads of tensors that
    autograd saved, without a tensor saved in between: so a pass that reads none is not counted, and
    two in a row count as one.

    >>> x = torch.ones(2, requires_grad=True)
    >>> with counted_backward_passes() as count:
    ...     for _ in range(3):
    ...         x.square().sum().backward()
    >>> count()
    3
    """
    passes, reading = 0, False

    def save(tensor: Tensor) -> Tensor:
        nonlocal reading
        reading = False
        return tensor

    def read(tensor: Tensor) -> Tensor:
        nonlocal passes, reading
        passes, reading = passes + (not reading), True
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, read):
        yield lambda: passes
