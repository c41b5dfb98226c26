"""SproutMixup against the reference implementations of its ops, and its options."""

import warnings

import pytest
import torch
from helpers.op_inputs import MEAN, STD, random_images

from sprout_fast import MixupTarget, SproutMixup, reference

IMAGES = random_images((6, 3, 8, 8))


def test_equals_reference_ops():
    x, labels = IMAGES, torch.tensor([0, 1, 2, 3, 4, 5])
    mixer = SproutMixup(mean=MEAN, std=STD, seed=5)
    for offset in range(3):
        batch, target = mixer(x, labels)
        state = torch.tensor([5, offset, 0])
        partner, lam = reference.sample_mixup(6, state)
        assert torch.equal(target.partner_labels, labels[partner])
        torch.testing.assert_close(target.lam, lam, rtol=3e-5, atol=1e-7)
        expected = reference.gaussian_mixup(x, partner, lam, state, mean=MEAN, std=STD)
        torch.testing.assert_close(batch, expected, rtol=0, atol=2e-5)


def test_eval_mode_only_normalizes():
    x, labels = IMAGES, torch.arange(6)
    mixer = SproutMixup(mean=MEAN, std=STD).eval()
    batch, target = mixer(x, labels)
    mean, std = torch.tensor(MEAN).view(-1, 1, 1), torch.tensor(STD).view(-1, 1, 1)
    torch.testing.assert_close(batch, (x / 255 - mean) / std, rtol=0, atol=1e-6)
    assert target.partner_labels is None and target.lam is None
    assert mixer.rng.state[1] == 0  # evaluation does not advance the training state


def test_natural_training_only_normalizes():
    x, labels = IMAGES, torch.arange(6)
    batch, target = SproutMixup(sigma=0, mixup_alpha=0)(x, labels)
    torch.testing.assert_close(batch, x / 255)
    assert target == MixupTarget(labels, None, None)


def test_per_sample_draws_one_lam_per_image():
    _, target = SproutMixup(per_sample=True)(IMAGES, torch.arange(6))
    assert target.lam.shape == (6,) and target.lam.unique().numel() == 6


def test_normalized_input():
    """Floats that the loader normalized give the same batch as the uint8 images."""
    x, labels = IMAGES, torch.arange(6)
    mean, std = torch.tensor(MEAN).view(-1, 1, 1), torch.tensor(STD).view(-1, 1, 1)
    a, _ = SproutMixup(mean=MEAN, std=STD, seed=1)(x, labels)
    b, _ = SproutMixup(input_normalized_by=(MEAN, STD), seed=1)((x / 255 - mean) / std, labels)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("per_sample", [False, True])
def test_lam_weights_the_image_and_its_own_label(per_sample):
    """Images whose pixels equal their labels: the batch is what the target says of the labels."""
    labels = torch.arange(6)
    images = labels.view(-1, 1, 1, 1).expand(6, 3, 4, 4).float()
    batch, target = SproutMixup(sigma=0, mixup_alpha=1.0, per_sample=per_sample)(images, labels)
    expected = target.lam * target.labels + (1 - target.lam) * target.partner_labels
    assert (target.labels != target.partner_labels).all()
    torch.testing.assert_close(batch, expected.view(-1, 1, 1, 1).expand_as(batch))


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(mixup_alpha=-1), r"mixup_alpha must be in \[0, 1e5\] \(0: no Mixup\), got -1"),
        (dict(noise="pairs"), "noise must be 'marginal' or 'paired', got 'pairs'"),
        (dict(mean=MEAN, input_normalized_by=(MEAN, STD)), "mean and std must be None"),
        (dict(std=STD, input_normalized_by=(MEAN, STD)), "mean and std must be None"),
        (
            dict(sigma=[0.1, 0.2], input_normalized_by=(MEAN, STD)),
            r"sigma must have one value per channel of input_normalized_by \(3\), got 2",
        ),
        (dict(first_row=-1), "first_row must be at least 0, got -1"),
    ],
)
def test_rejects_options_at_construction(options, message):
    with pytest.raises(ValueError, match=message):
        SproutMixup(**options)


def test_rejects_uint8_if_normalized():
    with pytest.raises(TypeError, match="got uint8"):
        SproutMixup(input_normalized_by=(MEAN, STD))(IMAGES, torch.arange(6))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_cast_model_gets_images_of_its_dtype(dtype):
    mixer = SproutMixup()
    assert mixer.to(dtype)(random_images((2, 3, 4, 4)), torch.arange(2))[0].dtype == dtype
    assert mixer.to("cpu").dtype == dtype
    assert mixer.float().dtype == torch.float32


def test_mean_and_std_are_read_once():
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.4])
    mixer = SproutMixup(mean=mean, std=std)
    assert mixer.mean == mean.tolist() and mixer.std == std.tolist()


@pytest.mark.parametrize(
    "low, high, message",
    [
        (-2.1, 2.6, r"from -2.1 to 2.6, expected \[0, 1\]; if they are normalized, set input_norm"),
        (0.0, 255.0, r"from 0 to 255, .* if they are 0 to 255, divide them by 255 or pass uint8"),
    ],
)
def test_images_far_outside_their_range_are_a_warning_once(low, high, message):
    images, labels = torch.linspace(low, high, 96).view(2, 3, 4, 4), torch.arange(2)
    mixer = SproutMixup(mean=0.4, std=0.2)
    with pytest.warns(UserWarning, match=message):
        mixer(images, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mixer(images, labels)
        SproutMixup()(images.clamp(0, 1), labels)
        SproutMixup(input_normalized_by=((0.4,) * 3, (0.2,) * 3))(images, labels)
