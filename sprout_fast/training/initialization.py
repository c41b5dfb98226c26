"""Initialization of new models, beyond torchvision's own."""

from __future__ import annotations

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck


def zero_init_residual(model: nn.Module) -> None:
    """Set the scale of the last norm in each residual block of a ResNet to 0.

    Every block then starts as the identity (Goyal et al. 2017, "Accurate, Large Minibatch SGD",
    section 5.1). Without it the output's variance grows with each of ResNet-152's 50 blocks, and in
    a short schedule its loss rises to four times that of chance instead of decreasing. Other
    architectures are left unchanged.

    >>> from torchvision.models import resnet18
    >>> model = resnet18()
    >>> zero_init_residual(model)
    >>> model.layer1[0].bn2.weight.abs().sum().item()
    0.0
    """
    for module in model.modules():
        if isinstance(module, (BasicBlock, Bottleneck)):
            last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
            assert isinstance(last.weight, nn.Parameter)
            nn.init.zeros_(last.weight)
