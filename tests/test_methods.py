"""The registry of methods, their options, and what differs between them."""

import pytest
import torch
import torch.nn.functional as F

from sprout_fast import SproutTarget
from sprout_fast.errors import UserError
from sprout_fast.methods import METHODS, MethodSetting, Sprout, build_method
from sprout_fast.training.config import METHOD_OPTIONS

SETTING = MethodSetting(num_classes=4, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), seed=5)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    nhwc = torch.randint(256, (6, 5, 7, 3), dtype=torch.uint8, generator=generator)
    return nhwc.permute(0, 3, 1, 2), torch.tensor([0, 1, 2, 3, 0, 1])


def inputs_of(method) -> tuple[torch.Tensor, SproutTarget]:
    """What a method shows the model in one training step."""
    seen = []

    def optimize(inputs, target, loss):
        seen.append((inputs, target))
        return loss(torch.zeros(len(inputs), 4), target)

    method.training_step(optimize, *batch())
    (pair,) = seen
    return pair


def test_natural_shows_the_normalised_images_and_their_labels() -> None:
    inputs, target = inputs_of(build_method("natural", SETTING))
    images, labels = batch()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (SETTING.mean, SETTING.std))
    torch.testing.assert_close(inputs, (images / 255 - mean) / std)
    assert torch.equal(target.labels, labels)
    assert target.partner_labels is None and target.lam is None


def test_sprout_without_noise_and_mixup_shows_what_natural_shows() -> None:
    plain, _ = inputs_of(build_method("sprout", SETTING, sigma=0.0, a=0.0))
    natural, _ = inputs_of(build_method("natural", SETTING))
    assert torch.equal(plain, natural)
    noisy, target = inputs_of(build_method("sprout", SETTING))
    assert (noisy - natural).abs().mean() > 0.1 and target.partner_labels is not None


def test_naturals_loss_is_cross_entropy_in_float32() -> None:
    method = build_method("natural", SETTING)
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = batch()[1]
    loss = method.loss(logits, SproutTarget(labels))
    assert loss.dtype is torch.float32
    torch.testing.assert_close(loss, F.cross_entropy(logits.float(), labels))


def test_options_reach_the_mixer_and_the_loss() -> None:
    options = {"sigma": 0.3, "a": 0.7, "alpha": 0.2, "scale": 3.0, "labels_from": "mean"}
    options |= {"beta_lr": 0.9, "beta_grad": "expected", "mass_floor": 0.6}
    assert set(options) == set(METHOD_OPTIONS)
    method = build_method("sprout", SETTING, **options)
    assert isinstance(method, Sprout)
    for name, value in options.items():
        part = method.mixer if name in ("sigma", "a") else method.loss
        assert getattr(part, name) == value, name


def test_every_method_has_state_of_its_own_seed() -> None:
    for name in METHODS:
        one, again, other = (
            inputs_of(build_method(name, MethodSetting(4, SETTING.mean, SETTING.std, seed=s)))[0]
            for s in (1, 1, 2)
        )
        assert torch.equal(one, again)
        assert torch.equal(one, other) == (name == "natural")


def test_all_state_is_in_the_state_dict() -> None:
    first, second = (build_method("sprout", SETTING) for _ in range(2))
    for _ in range(3):
        inputs_of(first)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.beta, second.beta)
    assert torch.equal(inputs_of(first)[0], inputs_of(second)[0])


def test_statistics_and_warning_follow_beta() -> None:
    method = build_method("sprout", SETTING)
    method.beta.copy_(torch.tensor([0.5, 1.0, 1.5, 3.0]))
    numbers = method.statistics()
    assert (numbers["beta_min"], numbers["beta_mean"], numbers["beta_max"]) == (0.5, 1.5, 3.0)
    expected = (0.99 + 0.01 * 1.5) / (0.99 + 0.01 * 6.0)
    assert numbers["true_class_mass"] == pytest.approx(expected, rel=1e-5)
    assert method.warning() is None
    method.beta.fill_(100.0)
    assert "0.40" in method.warning()
    assert build_method("natural", SETTING).statistics() == {}


def test_an_unknown_method_is_told_with_the_nearest() -> None:
    with pytest.raises(UserError, match="--method sprot: .*did you mean sprout?"):
        build_method("sprot", SETTING)
    with pytest.raises(UserError) as error:
        build_method("trades", SETTING)
    assert "did you mean" not in str(error.value) and "natural, sprout" in str(error.value)


def test_an_option_of_another_method_is_not_ignored() -> None:
    with pytest.raises(UserError, match="--beta-lr: method natural has no such option"):
        build_method("natural", SETTING, beta_lr=0.1)


def test_an_option_out_of_range_is_the_users_to_mend() -> None:
    with pytest.raises(UserError, match="--method sprout: alpha"):
        build_method("sprout", SETTING, alpha=1.5)
