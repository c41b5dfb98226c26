"""Architectures by name, the normalizing wrapper, and a model's restored state."""

import subprocess
import sys
import textwrap

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sprout_fast.errors import UserError
from sprout_fast.models import (
    Normalized,
    create_model,
    default_normalization,
    evaluation_mode,
    frozen_parameters,
    list_archs,
)


def test_list_archs_has_classification_models_only():
    archs = list_archs()
    assert {"resnet18", "resnet152", "vgg16_bn", "vit_b_16", "inception_v3"} <= set(archs)
    for other in ("fasterrcnn_resnet50_fpn", "fcn_resnet50", "r3d_18", "raft_small"):
        assert other not in archs
    assert not any("quantized" in arch for arch in archs)


@pytest.mark.parametrize(
    ("arch", "size"),
    [
        ("resnet18", 32),
        ("squeezenet1_1", 32),
        ("mobilenet_v3_small", 32),
        ("shufflenet_v2_x0_5", 32),
        ("googlenet", 32),
        ("inception_v3", 75),
    ],
)
def test_create_model_trains_in_a_plain_loop(arch, size):
    model = create_model(arch, 7, image_size=size)
    assert model.training
    logits = model(torch.randn(2, 3, size, size))
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (2, 7)
    F.cross_entropy(logits, torch.tensor([0, 6])).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("got", "nearest"),
    [("resent50", "resnet50"), ("ResNet152", "resnet152"), ("vgg16bn", "vgg16_bn")],
)
def test_unknown_arch_suggests_the_nearest(got, nearest):
    with pytest.raises(UserError, match=f"did you mean {nearest}") as error:
        create_model(got, 10)
    message = str(error.value)
    assert got in message and "\n" not in message
    assert len(message.partition("did you mean ")[2].split(" or ")) <= 3
    with pytest.raises(UserError, match=f"did you mean {nearest}"):
        default_normalization(got)


def test_an_unknown_arch_without_a_near_name_gets_an_example():
    with pytest.raises(UserError, match="for example resnet50"):
        create_model("zzzzzz", 10)


@pytest.mark.parametrize("num_classes", [0, 1, -3, 2.5, True, "10", None])
def test_num_classes_is_validated(num_classes):
    with pytest.raises(UserError, match="num_classes"):
        create_model("squeezenet1_1", num_classes)


def test_image_size_reaches_the_architectures_that_depend_on_it():
    with torch.device("meta"):
        model = create_model("vit_b_32", 10, image_size=64)
    assert model.encoder.pos_embedding.shape[1] == (64 // 32) ** 2 + 1


@pytest.mark.parametrize(
    ("arch", "size", "message"),
    [("inception_v3", 64, "75"), ("vit_b_32", 50, "50"), ("maxvit_t", 64, "64")],
)
def test_unsupported_image_sizes(arch, size, message):
    with pytest.raises(UserError, match=message) as error, torch.device("meta"):
        create_model(arch, 10, image_size=size)
    assert arch in str(error.value) and "\n" not in str(error.value)


def test_default_normalization():
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert default_normalization("resnet18") == imagenet
    assert default_normalization("inception_v3") == imagenet
    assert default_normalization("efficientnet_v2_l") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


MEAN, STD = [0.1, 0.5, 0.9], [0.2, 0.3, 0.4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_normalized_value_and_dtype(dtype):
    images = torch.rand(2, 3, 4, 5).to(dtype)
    got = Normalized(nn.Identity(), MEAN, STD)(images)
    assert got.dtype == dtype
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    expected = (images.double() - mean) / std
    bound = 8 * torch.finfo(dtype).eps if dtype != torch.float64 else 1e-6  # float32 buffers
    torch.testing.assert_close(got.double(), expected, rtol=bound, atol=bound)


def test_mean_and_std_are_not_in_the_state_dict():
    model = nn.Conv2d(3, 4, 1)
    wrapped = Normalized(model, MEAN, STD)
    assert list(wrapped.state_dict()) == ["model.weight", "model.bias"]
    assert wrapped.mean.shape == wrapped.std.shape == (1, 3, 1, 1)
    assert {name for name, _ in wrapped.named_buffers()} == {"mean", "std"}
    assert wrapped.to(torch.float64).mean.dtype == torch.float64


def test_normalized_passes_gradients_to_images():
    images = torch.rand(1, 3, 2, 2, requires_grad=True)
    Normalized(nn.Identity(), MEAN, STD)(images).sum().backward()
    expected = (1 / torch.tensor(STD)).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    torch.testing.assert_close(images.grad, expected)


def test_normalized_rejects_wrong_arguments():
    wrapped = Normalized(nn.Identity(), MEAN, STD)
    with pytest.raises(TypeError, match="uint8"):
        wrapped(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    for shape in [(3, 4, 4), (2, 1, 4, 4), (2, 4, 4, 3)]:
        with pytest.raises(ValueError, match="shape"):
            wrapped(torch.zeros(shape))
    for mean, std in [([0.5], STD), (MEAN, [0.2, 0.0, 0.4]), ([], []), ([float("nan")] * 3, STD)]:
        with pytest.raises(ValueError, match="Normalized"):
            Normalized(nn.Identity(), mean, std)


def test_modes_and_flags_are_restored():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4).eval(), nn.Dropout())
    model[0].weight.requires_grad_(False)
    with pytest.raises(KeyError), evaluation_mode(model), frozen_parameters(model):
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        raise KeyError
    assert [m.training for m in model.modules()] == [True, True, False, True]
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]


def test_torchvision_is_needed_only_for_its_own_models():
    code = """
        import sys
        sys.modules["torchvision"] = None  # importing it fails
        import sprout_fast.attacks, sprout_fast.evaluation
        from sprout_fast.errors import UserError
        from sprout_fast.models import Normalized, create_model, default_normalization
        for arch in ("cifar_vgg16", "cifar_resnet8", "cifar_wrn10_1"):
            create_model(arch, 10), default_normalization(arch)
        for arch in ("resnet18", "cifar_resnet18"):
            try:
                create_model(arch, 10)
            except UserError as error:
                print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pip install torchvision") == 2


def test_packages_are_imported_without_torch():
    code = """
        import sys
        import sprout_fast.attacks, sprout_fast.methods, sprout_fast.models
        assert "torch" not in sys.modules
        from sprout_fast.models import Normalized
        assert "torch" in sys.modules
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
