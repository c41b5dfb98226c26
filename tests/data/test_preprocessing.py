"""Preprocessing against torchvision's transforms of Pillow images."""

import numpy as np
import pytest
import torch
from helpers.image_files import noise_image
from PIL import Image
from torchvision import transforms

from sprout_fast.data.preprocessing import Preprocessing, preprocessed
from sprout_fast.errors import UserError


def a_photo(height=60, width=90):
    """Return smooth colors with some noise, uint8 [3, height, width]."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noisy = smooth + random.normal(scale=8, size=smooth.shape)
    return torch.from_numpy(noisy.clip(0, 255).astype(np.uint8)).permute(2, 0, 1)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize(("resize", "crop"), [(32, 28), (28, 28), (None, 28), (70, 64)])
def test_equals_torchvisions_transforms_of_pillow_images(interpolation, resize, crop):
    image = a_photo()
    got = Preprocessing(crop, resize, interpolation)(image)
    mode = transforms.InterpolationMode(interpolation)
    usual = transforms.Compose([transforms.Resize(resize or 32, mode), transforms.CenterCrop(crop)])
    expected = usual(Image.fromarray(image.permute(1, 2, 0).numpy()))
    difference = got.permute(1, 2, 0).float() - torch.from_numpy(np.array(expected)).float()
    # Nearest picks single pixels, and rounds half-way positions its own way.
    assert difference.abs().mean() < (20 if interpolation == "nearest" else 0.5)


def test_options_change_the_pixels():
    image = a_photo()
    usual = Preprocessing(28)(image).float()
    for other in (
        Preprocessing(28, 40),
        Preprocessing(28, interpolation="bicubic"),
        Preprocessing(28, antialias=False),
    ):
        assert (other(image).float() - usual).abs().mean() > 0.5, str(other)
    assert torch.equal(Preprocessing(28, 32)(image).float(), usual)
    assert str(Preprocessing(224, antialias=False)) == (
        "short side 256, bilinear, not antialiased, center 224"
    )


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match="resize 20: is smaller than the crop of 28 pixels"):
        Preprocessing(28, 20)
    for index, size in enumerate([(8, 8), (8, 9)]):
        noise_image(index, size).save(tmp_path / f"{index}.png")

    def read(index):
        return (tmp_path / f"{index}.png").read_bytes()

    with pytest.raises(UserError, match="image 1: got .* pixels, expected 8x8"):
        preprocessed(2, read, lambda index: f"image {index}", lambda image: image, 2)
