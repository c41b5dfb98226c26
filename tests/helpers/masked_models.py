"""Models that mislead attacks or their evaluation, made from a network that does not.

None of them is meant to be more robust than the network itself. ``MASKED`` has them by name.
"""

from __future__ import annotations

import copy
import io
import zlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor, to_pil_image


class Around(nn.Module):
    """A function of the network and the images."""

    def __init__(self, model: nn.Module, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(self.model, images)


class _Backward(torch.autograd.Function):
    """The identity, whose gradient is replaced by a function of it."""

    @staticmethod
    def forward(ctx, images, function):
        ctx.function = function
        return images.view_as(images)

    @staticmethod
    def backward(ctx, gradient):
        return ctx.function(gradient), None


def _quantized(model: nn.Module, images: Tensor) -> Tensor:
    return model(torch.floor(images * 15.999) / 15)


def _softly_quantized(model: nn.Module, images: Tensor) -> Tensor:
    # Thermometer-like: a sigmoid of temperature 1/200 at each of 15 thresholds.
    thresholds = (torch.arange(15, device=images.device, dtype=images.dtype) + 0.5) / 15
    levels = sum(torch.sigmoid(1000 * (images - threshold)) for threshold in thresholds)
    return model(levels / 15)


def _jpeg(model: nn.Module, images: Tensor) -> Tensor:
    def decoded(image: Tensor) -> Tensor:
        file = io.BytesIO()
        to_pil_image(image.float()).save(file, "jpeg", quality=75)
        return pil_to_tensor(Image.open(file)).to(images) / 255

    return model(torch.stack([decoded(image) for image in images.detach().cpu()]))


def _one_hot(model: nn.Module, images: Tensor) -> Tensor:
    logits = model(images)
    return F.one_hot(logits.argmax(1), logits.shape[1]).to(logits)


def _random_gradients(model: nn.Module, images: Tensor) -> Tensor:
    return model(_Backward.apply(images, torch.randn_like))


def _flipped_gradients(model: nn.Module, images: Tensor) -> Tensor:
    return model(_Backward.apply(images, torch.neg))


def _random_crop(model: nn.Module, images: Tensor) -> Tensor:
    side = images.shape[-1]
    padded = F.pad(images, (2, 2, 2, 2), mode="reflect")
    shifts = torch.randint(5, (len(images), 2)).tolist()
    crops = [one[:, y : y + side, x : x + side] for one, (y, x) in zip(padded, shifts, strict=True)]
    return model(torch.stack(crops))


def _dropout(model: nn.Module, images: Tensor) -> Tensor:
    return model(F.dropout(images, 0.2, training=True))


def _random_in_one_of_eight(model: nn.Module, images: Tensor) -> Tensor:
    noisy = torch.rand(()) < 1 / 8
    return model(images + 0.1 * torch.randn_like(images) if noisy else images)


def _noise_seeded_by_input(model: nn.Module, images: Tensor) -> Tensor:
    def noise(image: Tensor) -> Tensor:
        seed = zlib.crc32(image.detach().cpu().numpy().tobytes())
        return torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))

    return model(images + 0.1 * torch.stack([noise(image) for image in images]).to(images))


def _optimizing(model: nn.Module, images: Tensor) -> Tensor:
    """Move the images to where the model is more confident before they are classified."""
    moved = images.detach()
    for _ in range(3):
        with torch.enable_grad():
            moved = moved.detach().requires_grad_()
            confidence = model(moved).log_softmax(1).amax(1).sum()
            (gradient,) = torch.autograd.grad(confidence, moved)
        moved = moved + 2 / 255 * gradient.sign()
    return model(images + (moved - images).detach())


def _softmax(model: nn.Module, images: Tensor) -> Tensor:
    return model(images).softmax(1)


def _large_softmax(model: nn.Module, images: Tensor) -> Tensor:
    return 100 * model(images).softmax(1)


def _large_logits(model: nn.Module, images: Tensor) -> Tensor:
    return 1e4 * model(images)


def _sawtooth(model: nn.Module, images: Tensor) -> Tensor:
    # Its slope is -1 everywhere but at the jumps, although it increases from tooth to tooth.
    tooth = 1 / 64
    phase = torch.remainder(images, tooth) - tooth / 2
    return model(images - 2 * phase)


def _in_train_mode(model: nn.Module) -> nn.Module:
    """Return the network with statistics of the batch in place of the running ones."""
    changed = copy.deepcopy(model)
    norms = [module for module in changed.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in norms:
        module.running_mean = module.running_var = None

    def standardized(network: nn.Module, images: Tensor) -> Tensor:
        mean, std = images.mean(0, keepdim=True), images.std(0, keepdim=True, correction=0)
        return network(0.5 + 0.15 * (images - mean) / (std + 1e-2))

    return changed if norms else Around(changed, standardized)


def _k_winners(model: nn.Module) -> nn.Module:
    """Return the network with all but the largest 30 % of each activation set to 0."""

    def winners(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        flat = output.flatten(1)
        smallest = flat.topk(flat.shape[1] * 3 // 10, dim=1).values[:, -1]
        return output * (output >= smallest.view(-1, *[1] * (output.ndim - 1)))

    changed = copy.deepcopy(model)
    norms = [module for module in changed.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in norms or [one for one in changed.modules() if isinstance(one, nn.Conv2d)]:
        module.register_forward_hook(winners)
    return changed


def _around(function: Callable[[nn.Module, Tensor], Tensor]) -> Callable[[nn.Module], nn.Module]:
    return lambda model: Around(model, function)


#: Functions that mask a network, which they leave unchanged.
MASKED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "quantizer": _around(_quantized),
    "quantizer with temperature": _around(_softly_quantized),
    "JPEG": _around(_jpeg),
    "one-hot outputs": _around(_one_hot),
    "random gradients": _around(_random_gradients),
    "flipped gradients": _around(_flipped_gradients),
    "random crop": _around(_random_crop),
    "dropout": _around(_dropout),
    "random in 1 call of 8": _around(_random_in_one_of_eight),
    "noise seeded by the input": _around(_noise_seeded_by_input),
    "test-time optimization": _around(_optimizing),
    "softmax": _around(_softmax),
    "100 x softmax": _around(_large_softmax),
    "logits x 1e4": _around(_large_logits),
    "k-WTA": _k_winners,
    "sawtooth": _around(_sawtooth),
    "batch norm in train mode": _in_train_mode,
}
