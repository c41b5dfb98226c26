"""The numbers that a run logs, and those of the checkpoint that it leaves."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sprout_fast.data import Images, read_images
from sprout_fast.models import Normalized, load_model, read_checkpoint


def metrics(out: Path) -> list[dict[str, str]]:
    """Return the rows of a run's metrics.csv."""
    with open(out / "metrics.csv") as file:
        return list(csv.DictReader(file))


def assert_logged_is_measured(out: Path, data: Path) -> None:
    """Assert that a run has logged the accuracy and loss of the model that ``last.pt`` loads as.

    The same is asserted of the raw weights, if there are averages too, and of ``best.pt``. The
    images are read as those of an evaluation, and classified without the package's loops.
    """
    content = read_checkpoint(out / "last.pt")
    config, row = content["config"], metrics(out)[-1]
    assert int(row["step"]) == content["step"]
    images = read_images(data, loader=config["loader"], image_size=config["image_size"])
    model = load_model(out / "last.pt")
    top1, loss = measured(model, images)
    assert float(row["val_top1"]) == pytest.approx(top1, abs=1e-6)
    assert float(row["val_loss"]) == pytest.approx(loss, rel=1e-4)
    if content["ema"] is not None:
        assert isinstance(model, Normalized)
        model.model.load_state_dict(content["model"])
        top1, raw_loss = measured(model, images)
        assert float(row["val_top1_raw"]) == pytest.approx(top1, abs=1e-6)
        assert float(row["val_loss_raw"]) == pytest.approx(raw_loss, rel=1e-4)
        # Two losses can be alike by chance; that the two sets of weights differ cannot change with
        # the processor's rounding.
        assert any(
            not torch.equal(content["ema"][name], content["model"][name]) for name in content["ema"]
        )
    best = read_checkpoint(out / "best.pt")["best_top1"]
    assert measured(load_model(out / "best.pt"), images)[0] == pytest.approx(best, abs=1e-6)


def measured(model: nn.Module, images: Images) -> tuple[float, float]:
    """Return accuracy and mean cross entropy of a model of images in [0,1]."""
    with torch.no_grad():
        logits = torch.cat([model(part / 255) for part in images.images.split(100)])
    correct = (logits.argmax(1) == images.labels).double().mean()
    return correct.item(), F.cross_entropy(logits, images.labels).item()
