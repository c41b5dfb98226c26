"""Diversity of the gradients that SPROUT's three modules produce (Table 11)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sprout_fast.attacks.base import borrowed, value_and_gradient
from sprout_fast.evaluation.measurements.base import Batch, Measurement
from sprout_fast.evaluation.subject import Subject
from sprout_fast.ops.dirichlet import dirichlet
from sprout_fast.random import PhiloxState

MODULES = ("dirichlet", "mixup", "ga")


@dataclass(frozen=True)
class Diversity(Measurement):
    """Cosine similarity of the cross entropy's input gradients under two of SPROUT's modules.

    The modules are ``dirichlet`` (the label is drawn from Dirichlet((1-alpha) y + alpha beta), with
    the model's own beta, or else one uniform on [0, 10/K]), ``mixup`` (image and label are mixed
    with another image of the batch, with weight lambda ~ Beta(mixup_alpha, mixup_alpha)) and ``ga``
    (Gaussian noise is added to the image). Each gradient is with respect to the module's output
    image.

    Args:
        sigma: standard deviation of the Gaussian noise, for images in [0,1].
        mixup_alpha: parameter of Mixup's beta distribution.
        alpha: weight of beta in the Dirichlet's concentration.

    Columns: ``dirichlet_mixup``, ``dirichlet_ga`` and ``mixup_ga``, each in [-1,1], and 0 if a
    gradient is 0.
    """

    name: str = "diversity"
    sigma: float = 0.1
    mixup_alpha: float = 0.2
    alpha: float = 0.01

    def measure(self, subject: Subject, batch: Batch) -> Mapping[str, Tensor]:
        generator, device = batch.generator(), batch.images.device
        one_hot = F.one_hot(batch.labels, subject.num_classes).to(batch.images.dtype)
        gradients = {}

        def gradient_of(images: Tensor, target: Tensor) -> Tensor:
            def loss(logits: Tensor) -> Tensor:
                return F.cross_entropy(logits, target, reduction="none")

            with borrowed("diversity", subject.model, batch.images, batch.labels, None, 0):
                return value_and_gradient(subject.model, images, loss)[2].flatten(1)

        beta = subject.beta
        if beta is None:
            drawn = torch.rand(subject.num_classes, generator=generator, device=device)
            beta = drawn * 10 / subject.num_classes
        concentration = (1 - self.alpha) * one_hot + self.alpha * beta.to(device)
        state = PhiloxState(batch.seed, device=device).next()
        gradients["dirichlet"] = gradient_of(batch.images, dirichlet(concentration, state))

        beta_distribution = torch.distributions.Beta(self.mixup_alpha, self.mixup_alpha)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(batch.seed)
            lam = beta_distribution.sample().item()
        mixed = lam * batch.images + (1 - lam) * batch.images.roll(1, 0)
        gradients["mixup"] = gradient_of(mixed, lam * one_hot + (1 - lam) * one_hot.roll(1, 0))

        noise = torch.randn(batch.images.shape, generator=generator, device=device)
        gradients["ga"] = gradient_of(batch.images + self.sigma * noise, one_hot)
        return {
            f"{one}_{other}": F.cosine_similarity(gradients[one], gradients[other], dim=1)
            for one, other in itertools.combinations(MODULES, 2)
        }
