"""CutMix, its turns with Mixup, and binary cross entropy."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sprout_fast import MixupTarget
from sprout_fast.errors import UserError
from sprout_fast.methods import Method, MethodSetting, build_method
from sprout_fast.methods.losses import BinaryCrossEntropy

K, B, H, W = 4, 6, 20, 31
SETTING = MethodSetting(num_classes=K, mean=(0.0,) * 3, std=(1.0,) * 3, seed=5)
IMAGES = torch.arange(B, dtype=torch.uint8).view(B, 1, 1, 1).expand(B, 3, H, W) * 50
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def mixed(method: Method) -> tuple[Tensor, MixupTarget]:
    """Return the next batch, in levels of 50, and its target."""
    batch, target = method.mixer(IMAGES.contiguous(memory_format=torch.channels_last), LABELS)
    return batch * 255 / 50, target


def shift(target: MixupTarget) -> int:
    found = [r for r in range(1, B) if torch.equal(LABELS.roll(-r), target.partner_labels)]
    assert found
    return found[0]


def test_a_rectangle_of_the_partner_is_pasted_and_its_share_is_the_labels() -> None:
    method, shares = build_method("cutmix", SETTING), []
    for _ in range(300):
        batch, target = mixed(method)
        own = torch.arange(B).view(B, 1, 1, 1)
        pasted = (batch - own).abs() > 1e-3
        assert torch.equal(pasted.amax(0), pasted.amin(0))  # the same place in every image
        inside = pasted[0, 0]
        if inside.any():
            rows, columns = inside.any(1).nonzero(), inside.any(0).nonzero()
            box = inside[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert box.all()
            partner = own.roll(-shift(target), 0).expand_as(batch)
            torch.testing.assert_close(batch[pasted], partner[pasted].float())
        assert target.lam.item() == pytest.approx(1 - inside.float().mean().item(), abs=1e-6)
        shares.append(1 - target.lam.item())
    # Of a center that is uniform and a share that is, with what is beyond the border cut off.
    r = torch.linspace(0, 1, 1001).sqrt() / 2
    expected = ((2 * r - r * r) ** 2).mean().item()  # mean of the side within [0, 1], squared
    assert sum(shares) / 300 == pytest.approx(expected, abs=5 * 0.25 / 300**0.5)


def test_cutmix_and_mixup_take_turns() -> None:
    method, cut = build_method("cutmix", SETTING, mixup_alpha=1.0), 0
    for _ in range(400):
        batch, target = mixed(method)
        lam, own = target.lam.item(), torch.arange(B).view(B, 1, 1, 1)
        partner = own.roll(-shift(target), 0)
        blended = (lam * own + (1 - lam) * partner).expand_as(batch)
        is_mixup = bool((batch - blended).abs().max() < 1e-3)
        if not is_mixup:
            assert ((batch - own).abs() < 1e-3).logical_or((batch - partner).abs() < 1e-3).all()
            cut += 1
    assert abs(cut - 200) < 5 * 10


def test_ranks_cut_alike_and_a_run_resumes_exactly() -> None:
    one, two = (build_method("cutmix", SETTING, mixup_alpha=0.2) for _ in range(2))
    for _ in range(3):
        mixed(one)
    two.load_state_dict(one.state_dict())
    for _ in range(4):
        (batch, target), (other, its) = mixed(one), mixed(two)
        assert torch.equal(batch, other) and torch.equal(target.lam, its.lam)


def test_validation_is_neither_cut_nor_mixed() -> None:
    method = build_method("cutmix", SETTING, mixup_alpha=0.2).eval()
    batch, target = mixed(method)
    torch.testing.assert_close(batch, torch.arange(6.0).view(B, 1, 1, 1).expand_as(batch))
    assert target.partner_labels is None and target.lam is None


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_labels_are_smoothed(name: str) -> None:
    method = build_method(name, SETTING, alpha=0.1)
    _, target = mixed(method)
    logits, lam = torch.randn(B, K, generator=torch.Generator().manual_seed(0)), target.lam
    one, two = F.one_hot(LABELS, K), F.one_hot(target.partner_labels, K)
    label = 0.9 * (lam * one + (1 - lam) * two) + 0.1 / K
    torch.testing.assert_close(method.loss(logits, target), F.cross_entropy(logits, label))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("threshold", [None, 0.2, 0.6])
@pytest.mark.parametrize("lam", [None, 0.3, 0.9])
def test_binary_cross_entropy_is_torchs(
    smoothing: float, threshold: float | None, lam: float | None
) -> None:
    logits = torch.randn(B, K, generator=torch.Generator().manual_seed(0), requires_grad=True)
    partners = torch.tensor([0, 2, 3, 3, 1, 0])  # twice the same class
    label = F.one_hot(LABELS, K).float()
    target = MixupTarget(LABELS)
    if lam is not None:
        target = MixupTarget(LABELS, partners, torch.tensor([lam]))
        label = lam * label + (1 - lam) * F.one_hot(partners, K)
    if threshold is not None:
        label = (label > threshold).float()
    label = (1 - smoothing) * label + smoothing / K
    expected = F.binary_cross_entropy_with_logits(logits, label)
    value = BinaryCrossEntropy(smoothing, threshold)(logits, target)
    torch.testing.assert_close(value, expected)
    mine, theirs = (torch.autograd.grad(loss, logits)[0] for loss in (value, expected))
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cutmix_alpha": 0.0}, r"cutmix_alpha: got 0.0, expected a number in \(0, 1e5\]"),
        ({"mixup_alpha": -1.0}, "mixup_alpha: got -1.0"),
        ({"alpha": 1.5}, "alpha: got 1.5"),
        ({"loss": "mse"}, "loss: got 'mse', expected 'ce' or 'bce'"),
        ({"target_threshold": 0.2}, "target_threshold: got 0.2 without loss 'bce'"),
        ({"loss": "bce", "target_threshold": 1.0}, r"target_threshold: got 1.0, .* in \[0, 1\)"),
    ],
)
def test_options_out_of_range(options: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        build_method("cutmix", SETTING, **options)
