"""Diversity of the gradients that SPROUT's three modules produce (Table 11)."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sprout_fast.attacks.base import borrowed, value_and_gradient
from sprout_fast.evaluation.measurements.base import Batch, Measurement
from sprout_fast.evaluation.subject import Subject
from sprout_fast.ops.dirichlet import dirichlet
from sprout_fast.ops.sample_mixup import sample_mixup
from sprout_fast.random import PhiloxState

MODULES = ("dirichlet", "mixup", "ga")


@dataclass(frozen=True)
class Diversity(Measurement):
    """Cosine similarity of the cross entropy's input gradients under two of SPROUT's modules.

    The modules are ``dirichlet`` (the label is drawn from Dirichlet((1-alpha) y + alpha beta), with
    the model's own beta, or else one uniform on [0, 10/K]), ``mixup`` (image and label are mixed
    with another image of the batch, with weight lambda ~ Beta(mixup_alpha, mixup_alpha)) and ``ga``
    (Gaussian noise is added to the image). Each gradient is with respect to the module's output
    image. All random numbers are drawn per image, lambda and partner too, and again for each of
    ``draws`` passes, so that the spread over images is also that over draws.

    Args:
        sigma: standard deviation of the Gaussian noise, for images in [0,1].
        mixup_alpha: parameter of Mixup's beta distribution.
        alpha: weight of beta in the Dirichlet's concentration.
        draws: number of draws, over which each image's similarities are averaged.

    Columns: ``dirichlet_mixup``, ``dirichlet_ga`` and ``mixup_ga``, each in [-1,1]; a draw counts 0
    if a gradient is 0.
    """

    name: str = "diversity"
    sigma: float = 0.1
    mixup_alpha: float = 0.2
    alpha: float = 0.01
    draws: int = 10

    def parameters(self) -> dict[str, Any]:
        return super().parameters() | {"partners": "in random order"}

    def measure(self, subject: Subject, batch: Batch) -> dict[str, Tensor]:
        generator, device = batch.generator(), batch.images.device
        one_hot = F.one_hot(batch.labels, subject.num_classes).to(batch.images.dtype)

        def gradient_of(images: Tensor, target: Tensor) -> Tensor:
            loss = functools.partial(F.cross_entropy, target=target, reduction="none")
            with borrowed("diversity", subject.model, batch.images, batch.labels, None, 0):
                return value_and_gradient(subject.model, images, loss)[2].flatten(1)

        beta = subject.beta
        if beta is None:
            drawn = torch.rand(subject.num_classes, generator=generator, device=device)
            beta = drawn * 10 / subject.num_classes
        concentration = (1 - self.alpha) * one_hot + self.alpha * beta.to(device)
        state = PhiloxState(batch.seed, device=device)
        found = {f"{one}_{other}": [] for one, other in itertools.combinations(MODULES, 2)}
        for _ in range(self.draws):
            gradients = {
                "dirichlet": gradient_of(batch.images, dirichlet(concentration, state.next()))
            }
            partner, lam = sample_mixup(
                len(one_hot), state.next(), mixup_alpha=self.mixup_alpha, per_sample=True
            )
            partner = _shuffled(partner, generator)
            gradients["mixup"] = gradient_of(
                _mixed(batch.images, partner, lam), _mixed(one_hot, partner, lam)
            )
            noise = torch.randn(batch.images.shape, generator=generator, device=device)
            gradients["ga"] = gradient_of(batch.images + self.sigma * noise, one_hot)
            for one, other in itertools.combinations(MODULES, 2):
                similarity = F.cosine_similarity(gradients[one], gradients[other], dim=1)
                found[f"{one}_{other}"].append(similarity)
        return {name: torch.stack(draws).mean(0) for name, draws in found.items()}


def _shuffled(partner: Tensor, generator: torch.Generator) -> Tensor:
    """Return the partners of images in random order, by the images' own places.

    The op shifts a batch by one number for all; where classes take turns, all partners would be of
    one's own class, or none.
    """
    order = torch.randperm(len(partner), generator=generator, device=partner.device)
    return torch.empty_like(partner).index_copy_(0, order, order[partner])


def _mixed(values: Tensor, partner: Tensor, lam: Tensor) -> Tensor:
    weight = lam.to(values.dtype).view(-1, *[1] * (values.ndim - 1))
    return values[partner].lerp(values, weight)
