"""Evaluate a model with a protocol, in one call."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sprout_fast.attacks.balls import BALLS
from sprout_fast.errors import UserError
from sprout_fast.evaluation.audit import run_audit
from sprout_fast.evaluation.corruptions import SEVERITIES, CorruptedImages, MadeCorruptions
from sprout_fast.evaluation.measurements.corrupted import Corrupted
from sprout_fast.evaluation.names import AutoAttackVersion, NormName, ProtocolName
from sprout_fast.evaluation.protocols import PROTOCOLS, Setting
from sprout_fast.evaluation.recorder import ProgressCallback, Recorder
from sprout_fast.evaluation.results import Results
from sprout_fast.evaluation.subject import Subject, describe
from sprout_fast.models.logits import check_model
from sprout_fast.models.mode import evaluation_mode


def evaluate(
    model: nn.Module | Subject,
    images: Tensor | np.ndarray,
    labels: Tensor | np.ndarray,
    *,
    protocol: ProtocolName = "strong",
    eps: float = 8 / 255,
    norm: NormName = "linf",
    name: str | None = None,
    surrogate: nn.Module | None = None,
    corruptions: CorruptedImages | None = None,
    autoattack_version: AutoAttackVersion = "standard",
    batch_size: int = 128,
    seed: int = 0,
    scale: float = 1.0,
    cache_dir: str | Path | None = None,
    progress: ProgressCallback | None = None,
) -> Results:
    """Measure the accuracy of a classifier under attack, and audit the measurement.

    With ``torch.distributed`` initialized, every process must call this function with the same
    arguments. Each measures its share of the batches, and all return the results of a single one.

    Args:
        model: maps images in [0,1], floating point [B,C,H,W], to logits [B,K], alone or as the
            ``logits`` of a larger output; wrap a model that expects normalized images in
            :class:`~sprout_fast.models.Normalized`. A :class:`~sprout_fast.evaluation.Subject`
            adds class names and more to the report. The model is evaluated in eval mode and
            restored afterwards.
        images: [N,C,H,W], uint8 or floating point in [0,1], a tensor or a NumPy array. Batches are
            moved to the model's device.
        labels: integers [N] in [0,K).
        protocol: ``"strong"`` (AutoAttack's four attacks, Croce & Hein 2020), ``"plus"`` (its six),
            ``"rand"`` (its version for models that draw random numbers), ``"paper"`` (the
            measurements of the SPROUT paper), ``"audit"`` (checks for gradient masking), ``"all"``
            (strong, paper and audit), ``"corruptions"`` (noise, blur, weather and the like), or
            ``"autoattack"`` (the official package, which must be installed).
        eps: radius of the ball in which robust accuracy is measured, for images in [0,1].
        norm: norm of that ball, ``"linf"``, ``"l2"`` or ``"l1"``.
        name: name of the model, for the report. Default: that of a ``Subject``, else the class and
            size of the network.
        surrogate: another model of the same kind, on which transfer attacks are made.
        corruptions: the protocol corruptions' images,
            :func:`~sprout_fast.evaluation.corruptions.open_corruptions`. Default: made from
            ``images`` by the package imagecorruptions.
        autoattack_version: the official package's set of attacks, ``"standard"``, ``"plus"`` or
            ``"rand"``.
        batch_size: images per batch.
        seed: seed of all random numbers. On one device, results are reproducible.
        scale: factor in (0,1] on the steps, restarts and queries of all attacks, for trial runs.
        cache_dir: folder in which each batch's results are saved (in ``cache_dir/parts``), so that
            an interrupted call resumes when it is repeated.
        progress: called with (record, images done, images in total) after each batch.

    Returns:
        The results: ``clean_accuracy``, ``robust_accuracy`` (worst case over all attacks, image by
        image), ``attacks``, ``audit`` and more.

    Raises:
        UserError: unknown protocol or norm, images, labels or numbers out of range, or a model that
            returns no logits or NaN.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))
    >>> images, labels = torch.rand(6, 3, 2, 2), torch.tensor([0, 1, 2, 3, 0, 1])
    >>> results = evaluate(model, images, labels, eps=0.5, scale=0.1)
    >>> results.robust_accuracy <= results.clean_accuracy
    True
    """
    measurements_of = PROTOCOLS.look_up(protocol)
    BALLS.look_up(norm)
    images, labels = (torch.as_tensor(x).detach().cpu() for x in (images, labels))
    _check(images, labels, eps, scale, batch_size)
    labels = labels.long()
    check_model(model.model if isinstance(model, Subject) else model)
    subject = model if isinstance(model, Subject) else Subject(model, describe(model), 0)
    if name is not None:
        subject = dataclasses.replace(subject, name=name)
    if surrogate is not None:
        subject = dataclasses.replace(
            subject, surrogate=surrogate, surrogate_name=describe(surrogate)
        )
    if not subject.num_classes:
        with evaluation_mode(subject.model):
            num_classes = subject.logits(subject.prepared(images[:1])).shape[1]
        subject = dataclasses.replace(subject, num_classes=num_classes)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= subject.num_classes:
        raise UserError(
            f"labels: got values from {low} to {high}, expected 0 to {subject.num_classes - 1} for "
            f"a model with {subject.num_classes} classes"
        )
    recorder = Recorder(
        subject,
        images,
        labels,
        batch_size=batch_size,
        seed=seed,
        cache_dir=None if cache_dir is None else Path(cache_dir) / "parts",
        progress=progress,
    )
    setting = Setting(
        norm, eps, subject.num_classes, max(images.shape[-2:]), scale, autoattack_version
    )
    recorder.run(measurements_of(setting))
    records = recorder.records
    if protocol == "corruptions":
        given = corruptions or MadeCorruptions(images, labels, seed=seed)
        for corruption in given.corruptions:
            for severity in SEVERITIES:
                own = Recorder(
                    subject,
                    *given.read(corruption, severity),
                    batch_size=batch_size,
                    seed=seed,
                    cache_dir=None if cache_dir is None else Path(cache_dir) / "parts",
                    progress=progress,
                )
                own.run([Corrupted(f"{corruption} {severity}", corruption, severity, given.source)])
                records |= own.records
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
        records=records,
        audit=run_audit(subject, records, protocol),
    )


def _check(images: Tensor, labels: Tensor, eps: float, scale: float, batch_size: int) -> None:
    if images.ndim != 4 or labels.ndim != 1 or len(images) != len(labels) or len(labels) == 0:
        raise UserError(
            f"images: got {list(images.shape)} with labels {list(labels.shape)}, expected "
            "[N,C,H,W] with [N], N >= 1"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise UserError(f"labels: got {labels.dtype}, expected int64")
    if images.shape[1] > 4 >= images.shape[3]:
        raise UserError(
            f"images: got {list(images.shape)}, expected [N,C,H,W]: images.transpose(0, 3, 1, 2) "
            "of a NumPy array, images.permute(0, 3, 1, 2) of a tensor"
        )
    if images.dtype != torch.uint8:
        if not images.is_floating_point():
            raise UserError(f"images: got {images.dtype}, expected uint8 or floating point")
        low, high = torch.stack(torch.aminmax(images)).tolist()
        if not (low >= 0 and high <= 1):
            raise UserError(f"images: got values from {low:.4g} to {high:.4g}, expected [0,1]")
    if not 0 < eps < float("inf"):
        raise UserError(f"{eps}: expected a positive number, e.g. 8/255", option="eps")
    if not 0 < scale <= 1:
        raise UserError(f"{scale}: expected a number above 0 and at most 1", option="scale")
    if batch_size < 1:
        raise UserError(f"{batch_size}: expected an int >= 1", option="batch_size")
