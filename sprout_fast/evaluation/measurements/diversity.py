"""How different the gradients are that SPROUT's three modules give (Table 11)."""

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
    """Cosine between the input gradients of cross entropy with one module of SPROUT each.

    dirichlet: the label drawn from Dirichlet((1-alpha) y + alpha beta), beta the model's own or
    uniform on [0, 10/K]; mixup: image and label mixed with another image of the batch by
    lambda ~ Beta(mixup_alpha, mixup_alpha); ga: Gaussian noise of sigma on the image. Each gradient is to the image
    that goes into the module.

    Columns: ``dirichlet_mixup``, ``dirichlet_ga``, ``mixup_ga``, each in [-1,1] (0 where a gradient
    is 0).
    """

    name: str = "diversity"
    sigma: float = 0.1
    mixup_alpha: float = 0.2
    alpha: float = 0.01

    def measure(self, subject: Subject, batch: Batch) -> Mapping[str, Tensor]:
        generator = batch.generator()
        device = batch.images.device
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

        lam = torch.distributions.Beta(self.mixup_alpha, self.mixup_alpha)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(batch.seed)
            lam = lam.sample().item()
        partner = torch.arange(len(one_hot), device=device).roll(1)
        mixed = lam * batch.images + (1 - lam) * batch.images[partner]
        gradients["mixup"] = gradient_of(mixed, lam * one_hot + (1 - lam) * one_hot[partner])

        noise = torch.randn(batch.images.shape, generator=generator, device=device)
        gradients["ga"] = gradient_of(batch.images + self.sigma * noise, one_hot)
        return {
            f"{one}_{other}": F.cosine_similarity(gradients[one], gradients[other], dim=1)
            for one, other in itertools.combinations(MODULES, 2)
        }
