"""Which images of a batch still stand, so that an attack spends nothing on those that fell."""

from __future__ import annotations

import torch
from torch import Tensor


class ActiveSet:
    """A batch under attack: images leave it with the point at which the model erred.

    Args:
        images: [B,C,H,W], what an image that never falls starts from.
        labels: int64 [B].

    Attributes:
        adversarial: [B,C,H,W], of each image the point at which it fell, or the last one kept.
        rows: int64 [S], which of the batch still stand; an attack's own state has S rows too.
        labels: int64 [S], theirs.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.adversarial = images.clone()
        self.rows = torch.arange(len(images), device=images.device)
        self.labels = labels

    def __len__(self) -> int:
        return len(self.rows)

    def keep(self, points: Tensor) -> None:
        """Take ``points`` [S,C,H,W] as those of the images that stand."""
        self.adversarial[self.rows] = points.detach()

    def drop(self, points: Tensor, logits: Tensor) -> Tensor:
        """Let the images go whose label ``logits`` [S,K] at ``points`` [S,C,H,W] miss.

        Returns:
            int64 [S'], the rows of S that still stand, with which to index the attack's own state.
        """
        misclassified = is_misclassified(logits, self.labels)
        if not misclassified.any():  # in most steps; saves the rest
            return torch.arange(len(self), device=self.rows.device)
        self.adversarial[self.rows[misclassified]] = points.detach()[misclassified]
        return self.leave(misclassified)

    def leave(self, misclassified: Tensor) -> Tensor:
        """Let the images of ``misclassified`` bool [S] go; returns what `drop` does."""
        still = (~misclassified).nonzero().flatten()
        self.rows, self.labels = self.rows[still], self.labels[still]
        return still


def is_misclassified(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the label is not the largest logit: bool [B]. A row with NaN has misclassified."""
    return (logits.argmax(1) != labels) | logits.isnan().any(1)
