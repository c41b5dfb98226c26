"""Networks for images of about 32 x 32 pixels, such as CIFAR-10's.

    cifar_vgg16                     VGG-16 with batch norm and one linear layer
    cifar_resnet18, cifar_resnet50  torchvision's with a 3x3 stem of stride 1 and no max-pool
    cifar_resnet<D>, D = 6n + 2     He et al. 2016, "Deep Residual Learning", section 4.2
    cifar_wrn<D>_<K>, D = 6n + 4    Zagoruyko & Komodakis 2016, "Wide Residual Networks"

cifar_resnet50 has bottleneck blocks, although 50 = 6 * 8 + 2.

Convolutions are initialized by their fan-out, as in He et al. 2015, "Delving Deep into Rectifiers".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sprout_fast.models.factory import FAMILIES, Architecture, Family, torchvision_models

# Statistics of the pixels of CIFAR-10's 50,000 training images, as usually given.
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

_LISTED = (
    "cifar_resnet18",
    "cifar_resnet50",
    "cifar_vgg16",
    *(f"cifar_resnet{depth}" for depth in (8, 14, 20, 32, 44, 56, 110)),
    *(f"cifar_wrn{size}" for size in ("16_4", "16_8", "28_10", "40_4")),
    *(f"cifar_wrn34_{widening}" for widening in (1, 2, 4, 5, 10, 20)),
)


def find(arch: str) -> Architecture | None:
    """Return the network, with CIFAR-10's normalization.

    The smallest image leaves 2 x 2 pixels for the last stage; 1 x 1 after VGG's five poolings.
    """
    if arch == "cifar_vgg16":
        return _architecture(_Vgg16, smallest=32)
    if arch in ("cifar_resnet18", "cifar_resnet50"):
        return _architecture(_torchvision_resnet, arch.removeprefix("cifar_"), smallest=16)
    if match := re.fullmatch(r"cifar_resnet(\d+)", arch):
        blocks, rest = divmod(int(match[1]) - 2, 6)
        return _architecture(_ResNet, blocks, smallest=8) if blocks > 0 and not rest else None
    if match := re.fullmatch(r"cifar_wrn(\d+)_([1-9]\d*)", arch):
        blocks, rest = divmod(int(match[1]) - 4, 6)
        if blocks > 0 and not rest:
            return _architecture(_WideResNet, blocks, int(match[2]), smallest=8)
    return None


def _architecture(network: Callable[..., nn.Module], *sizes: Any, smallest: int) -> Architecture:
    return Architecture(lambda classes, _: network(*sizes, classes), MEAN, STD, smallest)


def _initialize(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


class _Vgg16(nn.Module):
    """Simonyan & Zisserman 2015, configuration D, with batch norm, on 32 x 32 pixels.

    Convolutions have biases, although batch norm cancels them: so the names and shapes of the state
    dict are those of most published CIFAR weights.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for stage in ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3):
            for outputs in stage:
                conv = nn.Conv2d(width, outputs, 3, padding=1)
                layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
                width = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, num_classes)
        _initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).mean((2, 3)))


def _torchvision_resnet(name: str, num_classes: int) -> nn.Module:
    model = torchvision_models().get_model(name, num_classes=num_classes)
    model.conv1 = _conv3x3(3, 64)
    model.maxpool = nn.Identity()
    _initialize(model.conv1)
    return model


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.added = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        residual = F.relu(self.bn1(self.conv1(x)), inplace=True)
        residual = self.bn2(self.conv2(residual))
        if self.added:
            x = x[:, :, :: self.stride, :: self.stride]
            x = F.pad(x, (0, 0, 0, 0, self.added // 2, self.added // 2))
        return F.relu(residual + x, inplace=True)


class _ResNet(nn.Module):
    """Three stages of ``blocks`` blocks with 16, 32 and 64 channels."""

    def __init__(self, blocks: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(3, 16)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(_BasicBlock, blocks, 16, 16, 1)
        self.layer2 = _stage(_BasicBlock, blocks, 16, 32, 2)
        self.layer3 = _stage(_BasicBlock, blocks, 32, 64, 2)
        self.fc = nn.Linear(64, num_classes)
        _initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


class _PreActivationBlock(nn.Module):
    """Two 3x3 convolutions, each after norm and ReLU; a 1x1 shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv3x3(outputs, outputs)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x), inplace=True)
        residual = F.relu(self.bn2(self.conv1(activated)), inplace=True)
        residual = self.conv2(residual)
        # The projection uses the normalized, rectified input, the identity the input itself.
        return residual + (x if self.shortcut is None else self.shortcut(activated))


class _WideResNet(nn.Module):
    """Three stages of ``blocks`` blocks with 16, 32 and 64 times ``widening`` channels."""

    def __init__(self, blocks: int, widening: int, num_classes: int) -> None:
        super().__init__()
        widths = [width * widening for width in (16, 32, 64)]
        self.conv1 = _conv3x3(3, 16)
        self.block1 = _stage(_PreActivationBlock, blocks, 16, widths[0], 1)
        self.block2 = _stage(_PreActivationBlock, blocks, widths[0], widths[1], 2)
        self.block3 = _stage(_PreActivationBlock, blocks, widths[1], widths[2], 2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.fc = nn.Linear(widths[2], num_classes)
        _initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(images))))
        return self.fc(F.relu(self.bn1(x), inplace=True).mean((2, 3)))


def _stage(
    block: Callable[[int, int, int], nn.Module], blocks: int, inputs: int, outputs: int, stride: int
) -> nn.Sequential:
    first = block(inputs, outputs, stride)
    return nn.Sequential(first, *(block(outputs, outputs, 1) for _ in range(blocks - 1)))


FAMILIES.register("cifar")(
    Family(
        names="cifar_vgg16, cifar_resnet18, cifar_resnet50, cifar_resnetD (D = 6n+2), "
        "cifar_wrnD_K (D = 6n+4)",
        listed=lambda: _LISTED,
        find=find,
    )
)
