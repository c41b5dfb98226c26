"""One call that evaluates a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from sprout_fast.attacks.balls import BALLS
from sprout_fast.errors import UserError
from sprout_fast.evaluation.protocols import Setting, protocol_of
from sprout_fast.evaluation.recorder import Record, Recorder
from sprout_fast.evaluation.results import Results
from sprout_fast.evaluation.subject import Subject


def evaluate(
    model: nn.Module | Subject,
    images: Tensor,
    labels: Tensor,
    *,
    protocol: str = "strong",
    eps: float = 8 / 255,
    norm: str = "linf",
    surrogate: nn.Module | None = None,
    batch_size: int = 128,
    seed: int = 0,
    scale: float = 1.0,
    cache_dir: str | Path | None = None,
    progress: Callable[[Record, int, int], None] | None = None,
) -> Results:
    """How accurate a classifier stays under attack, and whether that number can be believed.

    Args:
        model: takes images in [0,1], floating [B,C,H,W], gives logits [B,K]; wrap one that wants
            normalised images in `sprout_fast.models.Normalized`. Or a `Subject`, which says more.
        images: uint8, or floating in [0,1], [N,C,H,W]; moved to the model's device batch by batch.
        labels: int64 [N] in [0,K).
        protocol: "strong" (AutoAttack's four attacks), "paper" (what the SPROUT paper measured),
            "audit" (signs of gradient masking), "all" (these three), or "autoattack" (the official
            package, where it is installed).
        eps, norm: the ball of the verdict, in [0,1] units, "linf" or "l2".
        surrogate: another model of the same kind, to attack this one from (transfer).
        batch_size: images in a forward pass.
        seed: of every random number; results repeat exactly on one device.
        scale: in (0,1], multiplies steps, restarts and queries of all attacks: a trial.
        cache_dir: keeps each batch's answers in ``cache_dir/parts``, so that the same call goes on
            where it was stopped.
        progress: called with (record, images done, images in all) after each batch and at its end.

    Returns:
        a `Results`: ``clean_accuracy``, ``robust_accuracy`` (smallest over all attacks, image by
        image), ``attacks``, ``records``, ``audit``, ``save(cache_dir)``.

    Raises:
        UserError: an unknown protocol or norm, images, labels or numbers outside their range.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))
    >>> images, labels = torch.rand(6, 3, 2, 2), torch.tensor([0, 1, 2, 3, 0, 1])
    >>> results = evaluate(model, images, labels, eps=0.5, scale=0.1)
    >>> results.robust_accuracy <= results.clean_accuracy
    True
    """
    images, labels = images.detach().cpu(), labels.detach().cpu()
    _check(images, labels, eps, scale, batch_size)
    BALLS.look_up(norm)
    if isinstance(model, Subject):
        subject = model
    else:
        surrogate_name = "" if surrogate is None else type(surrogate).__name__
        subject = Subject(model, type(model).__name__, 0, surrogate, surrogate_name)
    subject.num_classes = subject.num_classes or _num_classes(subject, images)
    if int(labels.max()) >= subject.num_classes or int(labels.min()) < 0:
        raise UserError(
            f"labels: got {int(labels.min())} to {int(labels.max())}, takes 0 to "
            f"{subject.num_classes - 1} for a model of {subject.num_classes} classes"
        )
    setting = Setting(norm, eps, subject.num_classes, max(images.shape[-2:]), scale)
    recorder = Recorder(
        subject,
        images,
        labels,
        batch_size=batch_size,
        seed=seed,
        cache_dir=None if cache_dir is None else Path(cache_dir) / "parts",
        progress=progress,
    )
    recorder.run(protocol_of(protocol)(setting))
    return Results(
        subject,
        images,
        labels,
        protocol=protocol,
        norm=norm,
        eps=eps,
        seed=seed,
        batch_size=batch_size,
        scale=scale,
        records=recorder.records,
    )


def _num_classes(subject: Subject, images: Tensor) -> int:
    from sprout_fast.models.mode import evaluation_mode

    with evaluation_mode(subject.model):
        shape = subject.logits(subject.prepared(images[:1])).shape
    if len(shape) != 2 or shape[1] < 2:
        raise UserError(f"model: got outputs {list(shape)} of one image, takes [1,K] with K >= 2")
    return shape[1]


def _check(images: Tensor, labels: Tensor, eps: float, scale: float, batch_size: int) -> None:
    if images.ndim != 4 or labels.ndim != 1 or len(images) != len(labels) or len(labels) == 0:
        raise UserError(
            f"images: got {list(images.shape)} with labels {list(labels.shape)}, takes [N,C,H,W] "
            "with [N], N >= 1"
        )
    if labels.dtype != torch.int64:
        raise UserError(f"labels: got {labels.dtype}, takes int64")
    if images.dtype != torch.uint8:
        if not images.is_floating_point():
            raise UserError(f"images: got {images.dtype}, takes uint8 or floating in [0,1]")
        low, high = torch.stack(torch.aminmax(images)).tolist()
        if not (low >= 0 and high <= 1):
            raise UserError(f"images: got values from {low:.4g} to {high:.4g}, takes [0,1]")
    if not 0 < eps < float("inf"):
        raise UserError(f"eps: got {eps}, takes a number above 0 (images are in [0,1]: 8/255)")
    if not 0 < scale <= 1:
        raise UserError(f"scale: got {scale}, takes a number above 0 up to 1")
    if batch_size < 1:
        raise UserError(f"batch_size: got {batch_size}, takes an int >= 1")
