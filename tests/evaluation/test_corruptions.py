"""Corruptions: data sets on disk, made ones, and what is computed from them."""

import json

import numpy as np
import pytest
import torch
from helpers.networks import made_images, trained
from PIL import Image
from torch import nn

import sprout_fast
from sprout_fast.data.preprocessing import Preprocessing
from sprout_fast.errors import UserError
from sprout_fast.evaluation import write_report
from sprout_fast.evaluation.corruptions import (
    ALEXNET_ERRORS,
    SEVERITIES,
    ArrayCorruptions,
    CorruptionSummary,
    MadeCorruptions,
    open_corruptions,
)

SQUARE = Preprocessing(8)


def as_arrays(folder, count=20, names=ALEXNET_ERRORS):
    """Write images whose noise grows with the severity, in the layout of CIFAR-10-C."""
    images, labels = made_images(count, seed=3)
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(labels.numpy().astype(np.uint8), 5))
    random = np.random.default_rng(0)
    for name in names:
        noise = random.normal(size=images.shape)
        parts = [images.numpy() + 0.06 * (severity - 1) * noise for severity in SEVERITIES]
        whole = (255 * np.concatenate(parts).clip(0, 1)).round().astype(np.uint8)
        np.save(folder / f"{name}.npy", whole.transpose(0, 2, 3, 1))
    return images, labels


def as_folders(folder, images, labels, names, inside=""):
    """Write images in the layout of ImageNet-C, as PNG files, which keep every bit."""
    pixels = (255 * images).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for name in names:
        for severity in SEVERITIES:
            for index, label in enumerate(labels.tolist()):
                place = folder / inside / name / str(severity) / f"n{label:08}"
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels[index]).save(place / f"{index:03}.png")


def test_cifar_c_is_read_as_people_have_it(tmp_path):
    images, labels = as_arrays(tmp_path / "c")
    data = open_corruptions(tmp_path / "c", {}, preprocessing=SQUARE)
    assert data.corruptions == tuple(ALEXNET_ERRORS)
    got, got_labels = data.read("fog", 1)
    assert got.dtype == torch.uint8 and torch.equal(got_labels, labels)
    torch.testing.assert_close(got.float() / 255, images, rtol=0, atol=0.5001 / 255)
    assert not torch.equal(data.read("fog", 5)[0], got)
    some, some_labels = open_corruptions(tmp_path / "c", {}, preprocessing=SQUARE, limit=5).read(
        "fog", 1
    )
    assert torch.equal(some, got[3::4]) and torch.equal(some_labels, labels[3::4])


def test_the_protocol_measures_every_corruption_and_severity(tmp_path):
    images, labels = as_arrays(tmp_path / "c")
    model = trained(False)
    results = sprout_fast.evaluate(
        model,
        images,
        labels,
        protocol="corruptions",
        corruptions=ArrayCorruptions(tmp_path / "c"),
        cache_dir=tmp_path / "out",
    )
    found = results.corruptions
    assert found is not None and list(found.accuracies) == list(ALEXNET_ERRORS)
    whole = torch.from_numpy(np.load(tmp_path / "c" / "snow.npy")).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        correct = (model(whole).argmax(1) == labels.repeat(5)).view(5, -1).float().mean(1)
    assert list(found.accuracies["snow"].values()) == pytest.approx(correct.tolist())
    assert found.mean("snow") == pytest.approx(correct.mean().item())
    every = [found.mean(name) for name in ALEXNET_ERRORS]
    assert found.mean_accuracy == pytest.approx(sum(every) / 15)
    assert found.mce is None  # ten classes
    assert "snow" in str(results) and "not divided by AlexNet's" in str(results)
    assert "robust" not in str(results)

    content = json.loads((results.save(tmp_path / "out")).read_text())
    assert content["corruptions"]["accuracy"]["snow"]["5"] == found.accuracies["snow"][5]
    assert content["verdict"]["robust_accuracy"] is None
    assert set(content["per_image"]["misclassified_under"]) == {"clean"}
    page = write_report(results, tmp_path / "out").read_text()
    assert "jpeg compression" in page and "severity 5" in page
    assert f"{100 * found.mean_accuracy:.1f}" in page


def test_mce_is_normalized_by_alexnet():
    half = {
        name: dict.fromkeys(SEVERITIES, 1 - error / 2) for name, error in ALEXNET_ERRORS.items()
    }
    assert CorruptionSummary("", half, True).mce == pytest.approx(0.5)
    assert CorruptionSummary("", half, False).mce is None
    # Equal errors are not divided equally: 0.5 / 0.56 for brightness, 0.5 / 0.92 for impulse noise.
    equal = {name: dict.fromkeys(SEVERITIES, 0.5) for name in ALEXNET_ERRORS}
    expected = np.mean([0.5 / error for error in ALEXNET_ERRORS.values()])
    assert CorruptionSummary("", equal, True).mce == pytest.approx(expected)
    fewer = {name: value for name, value in equal.items() if name != "fog"}
    summary = CorruptionSummary("", fewer, True)
    assert summary.mce is None and summary.missing == ["fog"] and "without fog" in str(summary)


@pytest.mark.parametrize("inside", ["", "weather"])
def test_imagenet_c_is_read_as_people_have_it(tmp_path, inside):
    images, labels = made_images(12)
    as_folders(tmp_path, images, labels, ["fog", "snow"], inside)
    classes = {f"n{label:08}": label for label in range(10)}
    data = open_corruptions(tmp_path, classes, preprocessing=SQUARE)
    assert data.corruptions == ("snow", "fog")
    got, got_labels = data.read("fog", 2)
    order = torch.from_numpy(np.lexsort((np.arange(12), labels.numpy())))
    assert torch.equal(got_labels, labels[order])
    torch.testing.assert_close(got / 255, images[order], rtol=0, atol=0.5001 / 255)
    larger = open_corruptions(tmp_path, classes, preprocessing=Preprocessing(12, 16))
    assert larger.read("fog", 2)[0].shape == (12, 3, 12, 12)


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        open_corruptions(tmp_path / "none", {}, preprocessing=SQUARE)
    with pytest.raises(UserError, match="expected folders such as fog/1"):
        open_corruptions(tmp_path, {}, preprocessing=SQUARE)
    as_folders(tmp_path / "f", *made_images(10), ["fog"])
    classes = {f"n{label:08}": label for label in range(9)}
    with pytest.raises(UserError, match="n00000009: expected folders named after the 9 classes"):
        open_corruptions(tmp_path / "f", classes, preprocessing=SQUARE).read("fog", 1)
    as_arrays(tmp_path / "c", names=["fog"])
    np.save(tmp_path / "c" / "fog.npy", np.zeros((7, 8, 8, 3), np.uint8))
    with pytest.raises(UserError, match=r"fog.npy: got \[7, 8, 8, 3\], expected \[100,H,W,3\]"):
        open_corruptions(tmp_path / "c", {}, preprocessing=SQUARE).read("fog", 1)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "imagecorruptions", None)
    with pytest.raises(UserError, match="pip install imagecorruptions-imaug"):
        sprout_fast.evaluate(trained(False), *made_images(4), protocol="corruptions")


def test_corruptions_are_made_by_the_library():
    pytest.importorskip("imagecorruptions", reason="optional: imagecorruptions-imaug")
    small, labels = made_images(3)
    images = nn.functional.interpolate(small, 32, mode="bilinear")
    before = np.random.get_state()[1].tolist()
    data, again = (MadeCorruptions(images, labels, seed=1) for _ in range(2))
    other = MadeCorruptions(images, labels, seed=2)
    drawn = 0
    for name in data.corruptions:
        mild, severe = data.read(name, 1)[0], data.read(name, 5)[0]
        assert mild.shape == images.shape and mild.dtype == torch.uint8
        distances = [(255 * images - made).abs().mean() for made in (mild, severe)]
        # Frost is one of six pictures, some of which resemble these images.
        assert distances[0] < distances[1] or name == "frost", name
        assert torch.equal(severe, again.read(name, 5)[0]), name
        drawn += not torch.equal(severe, other.read(name, 5)[0])
    assert drawn >= 9  # the others draw nothing
    assert np.random.get_state()[1].tolist() == before
    with pytest.raises(UserError, match=r"got \[3, 8, 8\], expected \[3,H,W\] of at least 32"):
        MadeCorruptions(small, labels)
