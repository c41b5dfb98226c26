"""The images of a batch that an attack still works on."""

from __future__ import annotations

import torch
from torch import Tensor


class ActiveSet:
    """A batch under attack, in which images that are still correctly classified are active.

    An image that is dropped keeps the point at which it was misclassified, and costs no further
    computation. An attack's own state has one row per active image; :meth:`drop` and
    :meth:`remove` return the rows to keep, int64.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        # [B,C,H,W], where images were misclassified, else the last points stored by update.
        self.adversarial = images.clone()
        # int64 [A], the active images' indices in the batch, and their labels.
        self.rows = torch.arange(len(images), device=images.device)
        self.labels = labels

    def __len__(self) -> int:
        return len(self.rows)

    def update(self, points: Tensor) -> None:
        """Store ``points`` [A,C,H,W] as the current result for the active images."""
        self.adversarial[self.rows] = points.detach()

    def drop(self, points: Tensor, logits: Tensor) -> Tensor:
        """Remove images that ``logits`` [A,K] misclassify at ``points``, and store those points."""
        misclassified = is_misclassified(logits, self.labels)
        if not misclassified.any():  # true of most steps, and saves the copies
            return torch.arange(len(self), device=self.rows.device)
        self.adversarial[self.rows[misclassified]] = points.detach()[misclassified]
        return self.remove(misclassified)

    def remove(self, finished: Tensor) -> Tensor:
        """Remove the images where ``finished``, bool [A], is true; return the rows to keep."""
        still_active = (~finished).nonzero().flatten()
        self.rows, self.labels = self.rows[still_active], self.labels[still_active]
        return still_active


def is_misclassified(logits: Tensor, labels: Tensor) -> Tensor:
    """Return whether the label's logit is not the largest or any is NaN: [B, K] to bool [B].

    >>> is_misclassified(torch.tensor([[2.0, 1.0], [1.0, float("nan")]]), torch.tensor([0, 0]))
    tensor([False,  True])
    """
    return (logits.argmax(1) != labels) | logits.isnan().any(1)
