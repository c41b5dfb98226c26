"""Natural training: x as it is, the label as it is."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sprout_fast import SproutMixup, SproutTarget
from sprout_fast.methods.base import Method, MethodSetting


class HardLabelCrossEntropy(nn.Module):
    """Cross entropy with the batch's own labels, in float32: the paper's eq. (4) with g = h = I."""

    def forward(self, logits: Tensor, target: SproutTarget) -> Tensor:
        return F.cross_entropy(logits.float(), target.labels)


class Natural(Method):
    """Natural training, through the same mixer with its noise and its Mixup off."""

    def __init__(self, setting: MethodSetting) -> None:
        mixer = SproutMixup(
            sigma=0,
            a=0,
            mean=setting.mean,
            std=setting.std,
            dtype=setting.dtype,
            seed=setting.seed,
            first_row=setting.first_row,
            device=setting.device,
        )
        super().__init__(mixer, HardLabelCrossEntropy())
