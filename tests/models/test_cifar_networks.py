"""Networks for 32 x 32 images: published sizes, shapes, initialization, and training."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sprout_fast.errors import UserError
from sprout_fast.models import (
    CHECKPOINT_FORMAT,
    create_model,
    default_normalization,
    list_archs,
    load_model,
)

ONE_OF_EACH = ["cifar_vgg16", "cifar_resnet18", "cifar_resnet50", "cifar_resnet20", "cifar_wrn16_1"]


def count(arch, num_classes=10):
    with torch.device("meta"):
        model = create_model(arch, num_classes)
    return sum(parameter.numel() for parameter in model.parameters())


# He et al. 2016, "Deep Residual Learning for Image Recognition", table 6; Zagoruyko & Komodakis
# 2016, "Wide Residual Networks", tables 4 and 5.
@pytest.mark.parametrize(
    ("arch", "millions"),
    [
        ("cifar_resnet20", "0.27"),
        ("cifar_resnet32", "0.46"),
        ("cifar_resnet44", "0.66"),
        ("cifar_resnet56", "0.85"),
        ("cifar_resnet110", "1.7"),
        ("cifar_wrn16_8", "11.0"),
        ("cifar_wrn28_10", "36.5"),
        ("cifar_wrn40_4", "8.9"),
    ],
)
def test_numbers_of_parameters_are_those_of_the_papers(arch, millions):
    decimals = len(millions.partition(".")[2])
    assert f"{count(arch) / 1e6:.{decimals}f}" == millions


# As torchsummary and others print for the usual PyTorch versions (github.com/kuangliu/
# pytorch-cifar; WRN-34-10 as in RobustBench), e.g. github.com/JinchengLiang/DLminiproject.
@pytest.mark.parametrize(
    ("arch", "parameters"),
    [
        ("cifar_vgg16", 14_728_266),
        ("cifar_resnet18", 11_173_962),
        ("cifar_resnet50", 23_520_842),
        ("cifar_wrn34_10", 46_160_474),
    ],
)
def test_numbers_of_parameters_are_those_of_the_usual_versions(arch, parameters):
    assert count(arch) == parameters


@pytest.mark.parametrize("arch", [arch for arch in list_archs() if arch.startswith("cifar_")])
def test_every_listed_arch_runs(arch):
    with torch.device("meta"):
        model = create_model(arch, 7, image_size=32)
        assert model.training
        assert model(torch.empty(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("depth", [10, 16, 22])
@pytest.mark.parametrize("widening", [1, 3, 7])
def test_any_wide_resnet(depth, widening):
    """Counted by hand: a norm before each convolution, a projection for each new width."""
    widths = [16, *(width * widening for width in (16, 32, 64))]
    expected = 27 * 16 + 2 * widths[3] + (widths[3] + 1) * 10
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        for block in range((depth - 4) // 6):
            inputs = inputs if block == 0 else outputs
            expected += 2 * inputs + 9 * inputs * outputs + 2 * outputs + 9 * outputs**2
            changes = inputs != outputs
            expected += inputs * outputs if changes else 0
    assert count(f"cifar_wrn{depth}_{widening}") == expected


@pytest.mark.parametrize("arch", ONE_OF_EACH)
def test_a_step_lowers_the_loss(arch):
    torch.manual_seed(0)
    model = create_model(arch, 4).to(memory_format=torch.channels_last)
    side = 32 if arch == "cifar_vgg16" else 16
    images, labels = torch.randn(8, 3, side, side), torch.arange(8) % 4
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = F.cross_entropy(model(images), labels)
    before.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    optimizer.step()
    with torch.no_grad():  # in training mode, with the batch's statistics
        assert F.cross_entropy(model(images), labels) < before - 1e-3


@pytest.mark.parametrize("arch", ONE_OF_EACH)
def test_convolutions_are_initialized_by_their_fan_out(arch):
    """He et al. 2015, eq. (14): standard deviation sqrt(2 / (kernel area * outputs))."""
    torch.manual_seed(0)
    model = create_model(arch, 10)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight
            expected = math.sqrt(2 / (weight[0, 0].numel() * module.out_channels))
            spread = 5 / math.sqrt(2 * weight.numel())  # five standard errors of a deviation
            assert weight.std().item() == pytest.approx(expected, rel=spread)
            assert abs(weight.mean()) < 5 * expected / math.sqrt(weight.numel())
            assert module.bias is None or not module.bias.any()


def test_the_shortcut_has_no_parameters():
    """Without its residual branch, a block subsamples its input and pads channels with zeros."""
    block = create_model("cifar_resnet8", 10).layer2[0].eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, 16, 8, 8)
    out = block(x)
    assert out.shape == (2, 32, 4, 4)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any() and not out[:, 24:].any()


def test_wide_blocks_are_pre_activated():
    """Without its residual branch, negative numbers pass the identity shortcut unchanged."""
    block = create_model("cifar_wrn16_2", 10).block1[1].eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 32, 8, 8)
    assert torch.equal(block(x), x)


def test_resnet50_has_bottleneck_blocks():
    """Although 50 = 6 n + 2, the name means the ImageNet network with another stem."""
    with torch.device("meta"):
        model = create_model("cifar_resnet50", 10)
    assert type(model.layer1[0]).__name__ == "Bottleneck"
    assert model.conv1.stride == (1, 1) and model.conv1.kernel_size == (3, 3)
    assert model.layer1(model.conv1(torch.empty(2, 3, 32, 32, device="meta"))).shape[2:] == (32, 32)


@pytest.mark.parametrize(
    ("got", "nearest"),
    [
        ("resnet20", "cifar_resnet20"),
        ("wrn34_10", "cifar_wrn34_10"),
        ("cifar_vgg16_bn", "cifar_vgg16"),
        ("cifar_resnet21", "cifar_resnet20"),
        ("cifar_resnet2", "cifar_resnet20"),
        ("cifar_wrn34", "cifar_wrn34_"),
        ("cifar_wrn34_0", "cifar_wrn34_10"),
        ("cifar_wrn4_2", "cifar_wrn34_2"),
        ("CIFAR_WRN28_10", "cifar_wrn28_10"),
    ],
)
def test_unknown_names_suggest_the_nearest(got, nearest):
    with pytest.raises(UserError, match=rf"D = 6n\+4.*did you mean .*{nearest}") as error:
        create_model(got, 10)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arch", "smallest"),
    [("cifar_vgg16", 32), ("cifar_resnet18", 16), ("cifar_resnet20", 8), ("cifar_wrn16_1", 8)],
)
def test_smallest_image_size(arch, smallest):
    model = create_model(arch, 10, image_size=smallest)
    assert model(torch.rand(2, 3, smallest, smallest)).shape == (2, 10)
    with pytest.raises(
        UserError, match=f"image_size {smallest - 1}: {arch} expects at least {smallest}"
    ):
        create_model(arch, 10, image_size=smallest - 1)


def test_normalization_is_cifar10s():
    """The four digits of the usual recipes, e.g. those based on kuangliu/pytorch-cifar."""
    for arch in ("cifar_vgg16", "cifar_resnet50", "cifar_wrn34_10"):
        assert default_normalization(arch) == ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def test_a_checkpoint_names_its_arch(tmp_path):
    model = create_model("cifar_resnet8", 5).eval()
    mean, std = default_normalization("cifar_resnet8")
    config = {"arch": "cifar_resnet8", "num_classes": 5, "mean": mean, "std": std, "image_size": 32}
    content = {"format": CHECKPOINT_FORMAT, "model": model.state_dict(), "config": config}
    torch.save(content, tmp_path / "last.pt")
    images = torch.rand(2, 3, 32, 32)
    normalized = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path / "last.pt")(images), model(normalized))
