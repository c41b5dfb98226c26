"""Training steps of reference code in plain PyTorch.

Each is called with a batch: uint8 images [B,3,H,W] and int64 labels [B]. Logging, which in the
original loops synchronizes with the device in every step, is left out in their favor.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Beta, Dirichlet
from torch.optim import SGD, Optimizer
from torchvision.transforms.v2 import functional as transforms

from sprout_fast.training.build import data_parallel
from training_benchmark.trainee import SGD_OPTIONS, Trainee


class Unavailable(Exception):
    """A baseline that cannot be measured; the table shows the message."""


class Baseline:
    """A training step by reference code.

    Attributes:
        row: name of its row in the table.
        family: the method that it implements.
        note: remark in the table.
        cost: first guess of a step's time relative to a natural one's.
    """

    cost: ClassVar[float] = 1.0
    row: ClassVar[str]
    family: ClassVar[str]
    note: str

    def __init__(self, trainee: Trainee) -> None:
        self.trainee = trainee
        self.model = trainee.model

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        raise NotImplementedError

    def floats(self, images: Tensor) -> Tensor:
        """Convert uint8 images to float32 in [0,1], in the memory layout of the network."""
        layout = self.trainee.optimize.memory_format
        return (images.float() / 255).contiguous(memory_format=layout)

    def update(self, loss: Tensor, optimizer: Optimizer) -> None:
        """Backward pass and optimizer step, with loss scaling if the run uses it."""
        scaler = self.trainee.optimize.scaler
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()


class TorchvisionNatural(Baseline):
    """torchvision's references/classification/train.py: normalization, loss, SGD, call order."""

    row, family = "natural (torchvision)", "natural"
    note = "loop of torchvision's reference script"

    def __init__(self, trainee: Trainee) -> None:
        super().__init__(trainee)
        self.optimizer = SGD(trainee.model.parameters(), **SGD_OPTIONS)
        self.criterion = nn.CrossEntropyLoss()

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        setting, layout = self.trainee.setting, self.trainee.optimize.memory_format
        inputs = transforms.to_dtype(images, torch.float32, scale=True)
        inputs = transforms.normalize(inputs, [*setting.mean], [*setting.std])
        with self.trainee.autocast():
            output = self.model(inputs.contiguous(memory_format=layout))
            loss = self.criterion(output, labels)
        self.optimizer.zero_grad()
        self.update(loss, self.optimizer)


class TimmNatural(Baseline):
    """timm's train.py without label smoothing.

    Uses timm's network if it has one of that name, the normalization of its prefetcher, its ``sgd``
    (Nesterov momentum, no weight decay on norms and biases) and the order of its loop.

    Raises:
        Unavailable: timm is not installed.
    """

    row, family = "natural (timm)", "natural"
    note = "timm's network, optimizer and loop"

    def __init__(self, trainee: Trainee) -> None:
        super().__init__(trainee)
        try:
            import timm
            import timm.optim
        except ImportError as error:
            raise Unavailable(f"timm cannot be imported ({error}): pip install timm") from None
        setting, layout = trainee.setting, trainee.optimize.memory_format
        if timm.is_model(trainee.arch):
            self.model = timm.create_model(trainee.arch, num_classes=setting.num_classes)
            self.model.to(trainee.device).to(memory_format=layout)
            self.model = data_parallel(self.model, trainee.world)
        else:
            self.note = "timm's optimizer and loop; timm has no such network"
        self.mean, self.std = (
            255 * torch.tensor(numbers, device=trainee.device).view(1, 3, 1, 1)
            for numbers in (setting.mean, setting.std)
        )
        # Documented, but timm.optim has no __all__.
        create_optimizer = timm.optim.create_optimizer_v2  # pyright: ignore[reportPrivateImportUsage]
        self.optimizer = create_optimizer(self.model, "sgd", **SGD_OPTIONS)
        self.criterion = nn.CrossEntropyLoss()

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        inputs = images.float().sub_(self.mean).div_(self.std)
        inputs = inputs.contiguous(memory_format=self.trainee.optimize.memory_format)
        with self.trainee.autocast():
            loss = self.criterion(self.model(inputs), labels)
        self.update(loss, self.optimizer)
        self.optimizer.zero_grad()


class PlainSprout(Baseline):
    """Base of SPROUT implemented with PyTorch's operations: noise, Mixup and Dirichlet labels."""

    sigma, mixup_alpha = 0.1, 0.2

    def __init__(self, trainee: Trainee) -> None:
        super().__init__(trainee)
        self.num_classes = trainee.setting.num_classes
        self.optimizer = SGD(trainee.model.parameters(), **SGD_OPTIONS)
        concentration = torch.full((2,), self.mixup_alpha, device=trainee.device)
        self.lam_distribution = Beta(concentration[0], concentration[1])

    def mixed(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Add noise, then apply Mixup; returns mixed images, lam (0-dim) and partners [B]."""
        noisy = images + self.sigma * torch.randn_like(images)
        partner = torch.randperm(len(images), device=images.device)
        lam = self.lam_distribution.sample()
        return lam * noisy + (1 - lam) * noisy[partner], lam, partner

    def loss(self, logits: Tensor, concentration: Tensor) -> Tensor:
        """Return the cross entropy with one sampled label per row.

        The gradient also flows through the sample to a concentration that requires it.

        Args:
            logits, concentration: floating [B,K].
        """
        # Without validation, in its favor: it reads every concentration, and rejects 0.
        label = Dirichlet(concentration, validate_args=False).rsample()
        return F.cross_entropy(logits.float(), label)

    def logits(self, inputs: Tensor) -> Tensor:
        with self.trainee.autocast():
            return self.model(inputs)

    def one_hot(self, labels: Tensor) -> Tensor:
        return F.one_hot(labels, self.num_classes).float()


class AuthorsSprout(PlainSprout):
    """SPROUT as in its authors' published code, with torch.distributions and autograd.

    On each batch the weights make three steps, each with fresh noise and Mixup. A label is drawn
    from Dirichlet(10 y + u) for each of the two mixed images, and the two losses are mixed. Then u
    makes an ascent step with the same SGD options, from a forward and backward pass of the clean
    batch, and is clamped at 0. Images are in [0,1], not normalized.
    """

    row, family = "sprout (authors)", "sprout"
    note = "3 optimizer steps per batch, and a pass for u"
    cost = 4.0
    weight_steps = 3

    def __init__(self, trainee: Trainee) -> None:
        super().__init__(trainee)
        self.u = torch.ones(self.num_classes, device=trainee.device, requires_grad=True)
        self.u_optimizer = SGD([self.u], maximize=True, **SGD_OPTIONS)

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        images, one_hot = self.floats(images), self.one_hot(labels)
        for _ in range(self.weight_steps):
            inputs, lam, partner = self.mixed(images)
            logits, concentration = self.logits(inputs), 10 * one_hot + self.u.detach()
            own = self.loss(logits, concentration)
            partners = self.loss(logits, concentration[partner])
            self.optimizer.zero_grad()
            self.update(lam * own + (1 - lam) * partners, self.optimizer)
        self.u_optimizer.zero_grad()
        self.update(self.loss(self.logits(images), 10 * one_hot + self.u), self.u_optimizer)
        self.u.detach().clamp_(min=0)
        self.optimizer.zero_grad()


class TwoPassSprout(PlainSprout):
    """The paper's Algorithm 1 with a separate forward and backward pass for beta, as timed there.

    A step of the weights is followed by beta's ascent on the same mixed batch.
    """

    row, family = "sprout, two passes", "sprout"
    note = "a second forward and backward pass for beta"
    cost = 2.0
    alpha = 0.01

    def __init__(self, trainee: Trainee) -> None:
        super().__init__(trainee)
        beta = 10 / self.num_classes * torch.rand(self.num_classes, device=trainee.device)
        self.beta = beta.requires_grad_()
        self.beta_optimizer = SGD([self.beta], lr=0.5 / self.num_classes, maximize=True)
        setting = trainee.setting
        self.mean, self.std = (
            torch.tensor(numbers, device=trainee.device).view(1, 3, 1, 1)
            for numbers in (setting.mean, setting.std)
        )

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        inputs, lam, partner = self.mixed(self.floats(images))
        inputs = (inputs - self.mean) / self.std
        one_hot = self.one_hot(labels)
        label = (1 - self.alpha) * (lam * one_hot + (1 - lam) * one_hot[partner])
        self.optimizer.zero_grad()
        concentration = label + self.alpha * self.beta.detach()
        self.update(self.loss(self.logits(inputs), concentration), self.optimizer)
        self.beta_optimizer.zero_grad()
        concentration = label + self.alpha * self.beta
        self.update(self.loss(self.logits(inputs), concentration), self.beta_optimizer)
        self.beta.detach().clamp_(min=1e-3 / self.num_classes)
        self.optimizer.zero_grad()


#: By name on the command line.
BASELINES: dict[str, type[Baseline]] = {
    "torchvision": TorchvisionNatural,
    "timm": TimmNatural,
    "two-passes": TwoPassSprout,
    "authors": AuthorsSprout,
}
