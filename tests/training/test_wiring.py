"""The options of a run reach its optimizer, schedule, loaders and method.

Command lines are read, resolved and built by the run's own functions, on real images, and trained
with: what is expected of each step is written down here.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.image_files import noise_image, write_folder
from helpers.tiny_run import MEAN, STD, tiny_network
from torch import Tensor, nn
from torch.optim import SGD

from sprout_fast.data import build_loaders
from sprout_fast.distributed import World
from sprout_fast.random import PhiloxState
from sprout_fast.training import optim
from sprout_fast.training.build import build_trainer
from sprout_fast.training.command import parse
from sprout_fast.training.config import CifarConfig, Interval, TrainConfig
from sprout_fast.training.loop import Outcome, Trainer
from sprout_fast.training.progress import Display
from sprout_fast.training.run import resolve

CPU = torch.device("cpu")
SIDE, BATCH, BATCHES = 8, 6, 4  # of an epoch
ALONE = World(0, 1, CPU)


class Block(nn.Module):
    """A block of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.norm(self.layer(inputs))


def two_blocks(num_classes: int) -> nn.Module:
    """Return a network whose layers have depths."""
    blocks, pool = nn.Sequential(Block(), Block()), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), blocks, pool, nn.Flatten(), nn.Linear(4, num_classes))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 24 training and 6 validation images of 8 x 8 pixels."""
    counts = {"train": {"a": 8, "b": 8, "c": 8}, "test": {"a": 2, "b": 2, "c": 2}}
    root = tmp_path_factory.mktemp("images")
    return write_folder(root, counts, lambda number: noise_image(number, (SIDE, SIDE)))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "natural.pth"
    torch.save(tiny_network(3).state_dict(), file)
    return file


def resolved(
    command: str, images: Path, out: Path, kind: type[TrainConfig] = CifarConfig
) -> TrainConfig:
    argv = f"--arch helpers.tiny_run:tiny_network --image-size {SIDE} --batch-size {BATCH}"
    argv += f" --data {images} --out {out} --device cpu {command}"
    config, _ = parse(kind, argv.split(), "train", "")
    config.check()
    return resolve(config, ALONE)


def trainer_of(*arguments: Any, **options: Any) -> Trainer:
    return build_trainer(resolved(*arguments, **options), ALONE, Display(enabled=False))


def rates(trainer: Trainer) -> list[float]:
    """Train, and return the learning rate of each optimizer step."""
    seen = []
    optimizer = trainer.optimize.optimizer
    optimizer.register_step_pre_hook(lambda *_: seen.append(optimizer.param_groups[0]["lr"]))
    assert trainer.fit() is Outcome.FINISHED
    return seen


def cosine(steps: int, warmup: int, floor: float = 0.0) -> list[float]:
    """Return the rates of a cosine schedule as fractions of the peak."""
    factors = [(step + 1) / warmup for step in range(warmup)]
    for step in range(steps - warmup):
        half = (1 + math.cos(math.pi * step / (steps - warmup))) / 2
        factors.append(floor + (1 - floor) * half)
    return factors


PER_IMAGE = 0.1 / 128  # the default peak of train_cifar.py
# By name: the command line, the peak of the learning rate, and its fraction at each step. An epoch
# has 4 batches of 6 images.
SCHEDULES: dict[str, tuple[str, float, list[float]]] = {
    # A tenth of the epochs is 0.4 epochs, 2 steps.
    "default": ("--method natural --epochs 4", PER_IMAGE * 6, cosine(16, 2)),
    "accumulated": (
        "--accumulation-steps 2 --epochs 4 --warmup-epochs 1",
        PER_IMAGE * 12,
        cosine(8, 2),
    ),
    "three batches per step": (  # the fourth is left out
        "--method mixup --accumulation-steps 3 --epochs 6 --warmup-epochs 2",
        PER_IMAGE * 18,
        cosine(6, 2),
    ),
    "replays": (
        "--method free_at --replays 3 --epochs 2 --warmup-epochs 0.5",
        PER_IMAGE * 6,
        cosine(24, 6),
    ),
    "replays in stages": (
        "--method free_at --replays 5 --epochs 2 --warmup-epochs 0 --schedule stages --lr 0.02",
        0.02,
        [1.0] * 16 + [0.1] * 12 + [0.01] * 8 + [0.001] * 4,
    ),
    "fast": (
        "--method fast_at --epochs 3 --warmup-epochs 0 --schedule step --step-epochs 1",
        PER_IMAGE * 6,
        [1.0] * 4 + [0.1] * 4 + [0.01] * 4,
    ),
    "step": (
        "--method natural --limit-train 6 --epochs 31 --warmup-epochs 0 --schedule step",
        PER_IMAGE * 6,
        [1.0] * 30 + [0.1],
    ),
    "replays step": (
        "--method free_at --replays 2 --epochs 4 --warmup-epochs 0 --schedule step --step-epochs 2",
        PER_IMAGE * 6,
        [1.0] * 16 + [0.1] * 16,
    ),
    "floor": (
        "--method trades --attack-steps 1 --epochs 2 --warmup-epochs 0.5 --lr 0.01 --min-lr 0.001",
        0.01,
        cosine(8, 2, floor=0.1),
    ),
    "another batch size": (
        "--method ls --epochs 1 --warmup-epochs 0 --lr 0.3 --lr-batch-size 24"
        " --accumulation-steps 2",
        0.15,
        cosine(2, 0),
    ),
    # A tenth of the rate from random weights.
    "from weights": (
        "--method pgd_at --attack-steps 1 --epochs 1 --weights WEIGHTS",
        PER_IMAGE * 0.6,
        cosine(4, 0),
    ),
    "adamw from weights": (
        "--method ga --epochs 1 --weights WEIGHTS --optimizer adamw --accumulation-steps 2",
        1e-4 / 1024 * 12,
        cosine(2, 0),
    ),
    "a given rate from weights": (
        "--method natural --epochs 1 --weights WEIGHTS --lr 0.1",
        0.1,
        cosine(4, 0),
    ),
    "lamb": ("--method natural --epochs 1 --optimizer timm-lamb", 5e-3 / 2048 * 6, cosine(4, 0)),
    # Three steps per batch; the boundaries are after 9.6, 16.8 and 21.6 of 24 steps.
    "reference-code": (
        "--recipe reference-code --epochs 2",
        0.01,
        [1.0] * 10 + [0.1] * 7 + [0.01] * 5 + [0.001] * 2,
    ),
    "paper": (
        "--recipe paper --epochs 5 --warmup-epochs 0.5",
        PER_IMAGE * 6,
        [0.5] + [1.0] * 7 + [0.1] * 6 + [0.01] * 4 + [0.001] * 2,
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_learning_rate_of_every_step(
    name: str, images: Path, weights: Path, tmp_path: Path
) -> None:
    command, peak, factors = SCHEDULES[name]
    command = command.replace("WEIGHTS", str(weights))
    found = rates(trainer_of(command, images, tmp_path))
    assert found == pytest.approx([peak * factor for factor in factors], rel=1e-6, abs=1e-12)


# Of train_imagenet.py, whose loaders read files: the rate is the recipe's, for its own batch size.
RECIPES: dict[str, tuple[str, float, list[float]]] = {
    "paper": ("--weights WEIGHTS", 0.01 / 256 * 6, [1.0] * 4 + [0.1] * 2 + [0.01] * 2),
    "torchvision-v1": (
        "--epochs 3 --step-epochs 1 --val-resize 8",
        0.1 / 256 * 6,
        [1.0] * 4 + [0.1] * 4 + [0.01] * 4,
    ),
    "nvidia": (
        "--epochs 2 --warmup-epochs 1 --val-resize 8 --accumulation-steps 2",
        0.256 / 256 * 12,
        cosine(4, 2),
    ),
    "timm-a3": (
        "--epochs 2 --warmup-epochs 0.25 --val-image-size 8 --val-resize 8",
        0.008 / 2048 * 6,
        cosine(8, 1, floor=1e-6 / (0.008 / 2048 * 6)),
    ),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_learning_rate_of_a_recipe_for_imagenet(
    recipe: str, images: Path, weights: Path, tmp_path: Path
) -> None:
    command, peak, factors = RECIPES[recipe]
    command = f"--recipe {recipe} --loader torch --workers 1 {command}"
    command = command.replace("WEIGHTS", str(weights))
    trainer = trainer_of(command, images, tmp_path, kind=TrainConfig)
    found = rates(trainer)
    assert found == pytest.approx([peak * factor for factor in factors], rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("size", "accumulation_steps"), [(1, 1), (2, 1), (2, 3)])
def test_the_rate_counts_the_images_of_all_processes(size: int, accumulation_steps: int) -> None:
    for options, per_image in (
        ({}, 0.1 / 256),
        ({"weights": Path("natural.pth")}, 0.01 / 256),
        ({"optimizer": "adamw", "weights": Path("natural.pth")}, 1e-4 / 1024),
        ({"lr": 0.5, "lr_batch_size": 1024}, 0.5 / 1024),
    ):
        config = TrainConfig(
            data=Path(), batch_size=32, accumulation_steps=accumulation_steps, **options
        )
        found = resolve(config, World(0, size, CPU)).lr
        assert found == pytest.approx(per_image * 32 * size * accumulation_steps)


WEIGHTS, OTHERS = {"0.weight", "6.weight"}, {"0.bias", "1.weight", "1.bias", "6.bias"}
# By command line: options of all groups, and the decays of weights and of norms and biases.
GROUPS: dict[str, tuple[dict[str, Any], float, float]] = {
    "--method natural": ({"momentum": 0.9, "nesterov": False, "fused": True}, 5e-4, 0.0),
    "--momentum 0.8 --nesterov --weight-decay 0.1": ({"momentum": 0.8, "nesterov": True}, 0.1, 0.0),
    "--norm-decay --momentum 0": ({"momentum": 0.0}, 5e-4, 5e-4),
    "--recipe reference-code": ({"momentum": 0.9, "nesterov": False}, 5e-4, 5e-4),
    "--recipe paper --method sprout": ({"momentum": 0.9}, 5e-4, 0.0),
    "--optimizer adamw --momentum 0.85": ({"betas": (0.85, 0.999), "fused": True}, 0.05, 0.0),
    "--optimizer adamw --norm-decay": ({"betas": (0.9, 0.999)}, 0.05, 0.05),
    "--optimizer timm-lamb --weight-decay 0.3": ({"betas": (0.9, 0.999)}, 0.3, 0.0),
}


@pytest.mark.parametrize("command", GROUPS)
def test_parameter_groups(command: str, images: Path, tmp_path: Path) -> None:
    options, *decays = GROUPS[command]
    trainer = trainer_of(command, images, tmp_path)
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    groups = trainer.optimize.optimizer.param_groups
    assert [{names[p] for p in group["params"]} for group in groups] == [WEIGHTS, OTHERS]
    assert [group["weight_decay"] for group in groups] == decays
    for group in groups:
        assert {key: group[key] for key in options} == options


def test_recipes_for_imagenet_decay_what_their_sources_do(images: Path, tmp_path: Path) -> None:
    for recipe, decays in (("torchvision-v1", [1e-4, 1e-4]), ("nvidia", [1 / 32768, 0.0])):
        command = f"--recipe {recipe} --loader torch --val-resize 8"
        trainer = trainer_of(command, images, tmp_path, kind=TrainConfig)
        groups = trainer.optimize.optimizer.param_groups
        assert [group["weight_decay"] for group in groups] == decays
        assert {group["momentum"] for group in groups} == {0.9 if "torch" in recipe else 0.875}


def test_layer_decay_at_every_step(images: Path, tmp_path: Path) -> None:
    command = f"--arch {__name__}:two_blocks --layer-decay 0.5 --lr 0.8 --epochs 1 --norm-decay"
    command += " --warmup-epochs 0.5 --method natural"
    trainer = trainer_of(command, images, tmp_path)
    groups = trainer.optimize.optimizer.param_groups
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    depths = {"0": 3, "1.0": 2, "1.1": 1, "4": 0}
    for group in groups:
        assert group["weight_decay"] == 5e-4
        for name in (names[parameter] for parameter in group["params"]):
            (depth,) = (d for prefix, d in depths.items() if name.startswith(f"{prefix}."))
            # After one of two steps of warm-up.
            assert group["lr"] == pytest.approx(0.4 * 0.5**depth), name
    assert rates(trainer) == pytest.approx([0.8 * factor for factor in cosine(4, 2)])


def test_apex_gets_the_options_of_sgd(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optim, "_apex_fused_sgd", SGD)  # apex is not installed
    command = "--optimizer apex-fused-sgd --momentum 0.7 --nesterov --accumulation-steps 2"
    trainer = trainer_of(f"{command} --epochs 2 --warmup-epochs 0", images, tmp_path)
    for group in trainer.optimize.optimizer.param_groups:
        assert (group["momentum"], group["nesterov"], group["fused"]) == (0.7, True, None)
    assert rates(trainer) == pytest.approx([PER_IMAGE * 12 * factor for factor in cosine(4, 0)])


@pytest.mark.parametrize("seed", [0, 7])
def test_the_seed_is_that_of_images_weights_and_noise(
    seed: int, images: Path, tmp_path: Path
) -> None:
    arch = f"--arch {__name__}:two_blocks"
    trainer = trainer_of(f"{arch} --seed {seed} --limit-train 15", images, tmp_path)
    options: dict[str, Any] = {"loader": "memory", "batch_size": BATCH, "limit_train": 15}
    loaders = [build_loaders(images, seed=number, **options).train for number in (seed, seed + 1)]
    batches, same, others = (
        torch.cat([batch for batch, _ in loader]) for loader in (trainer.loaders.train, *loaders)
    )
    assert torch.equal(batches, same) and not torch.equal(batches, others)
    torch.manual_seed(seed)
    for name, value in two_blocks(3).state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], value), name
    states = [m.state.tolist() for m in trainer.method.modules() if isinstance(m, PhiloxState)]
    assert states and all(state == [seed, 0] for state in states)


@pytest.mark.parametrize(
    ("option", "mean", "std"),
    [("dataset", MEAN, STD), ("none", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))],
)
def test_images_are_normalized_once_wherever_they_are_seen(
    option: str, mean: tuple[float, ...], std: tuple[float, ...], images: Path, tmp_path: Path
) -> None:
    command = f"--method natural --ema 0.5 --normalization {option}"
    trainer = trainer_of(command, images, tmp_path)
    assert (trainer.record["mean"], trainer.record["std"]) == (list(mean), list(std))
    batch, labels = next(iter(trainer.loaders.val))
    assert batch.dtype is torch.uint8
    shift, scale = (torch.tensor(numbers).view(3, 1, 1) for numbers in (mean, std))
    expected = (batch / 255 - shift) / scale
    torch.testing.assert_close(trainer.method.mixer(batch, labels)[0], expected)
    seen: list[Tensor] = []
    assert trainer.raw is not None and trainer.optimize.ema is not None
    for network in (trainer.model, trainer.optimize.ema.module):
        network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for wrapped in (trainer.evaluated, trainer.raw, trainer.optimize.network):
        wrapped(batch / 255)
    assert len(seen) == 3
    for inputs in seen:
        torch.testing.assert_close(inputs, expected)


def test_options_reach_the_part_that_they_name(images: Path, tmp_path: Path) -> None:
    command = "--ema 0.7 --ema-steps 3 --clip-grad 0.4 --amp bf16 --no-channels-last --epochs 3"
    command += " --detect-anomaly --save-every 7 --keep-every 2 --dist-bn reduce --erasing 0.3"
    command += " --accumulation-steps 2 --sigma 0.2 --alpha 0.05"
    trainer = trainer_of(command, images, tmp_path)
    optimize, average = trainer.optimize, trainer.optimize.ema
    assert (optimize.accumulation_steps, optimize.clip_grad, optimize.detect_anomaly) == (
        2,
        0.4,
        True,
    )
    assert optimize.amp_dtype is torch.bfloat16 and not optimize.scaler.is_enabled()
    assert optimize.memory_format is torch.contiguous_format
    assert average is not None and (average._decay, average._interval) == (0.7, 3)
    evaluated, raw = trainer.evaluated, trainer.raw
    assert raw is not None and evaluated.model is average.module and raw.model is trainer.model
    assert (trainer.save_every, trainer.keep_every) == (Interval(steps=7), 2)
    assert (trainer.dist_bn, trainer.epochs, trainer.out) == ("reduce", 3, tmp_path)
    assert trainer.loaders.train._augmentation.erasing == 0.3
    method = trainer.method
    assert (method.mixer.sigma, method.loss.alpha) == (0.2, 0.05)
    inputs, _ = method.mixer(*next(iter(trainer.loaders.train)))
    assert inputs.dtype is torch.bfloat16
    plain = trainer_of("--amp fp16", images, tmp_path)
    assert plain.optimize.amp_dtype is torch.float16 and plain.optimize.scaler.is_enabled()
    assert plain.optimize.memory_format is torch.channels_last
    assert plain.raw is None and plain.evaluated.model is plain.model
    assert (plain.optimize.clip_grad, plain.save_every, plain.dist_bn) == (None, None, "broadcast")


@pytest.mark.parametrize("loader", ["torch", "memory"])
def test_images_have_the_sizes_that_were_asked_for(
    loader: str, images: Path, tmp_path: Path
) -> None:
    size = 8 if loader == "memory" else 12
    command = f"--method natural --loader {loader} --image-size {size} --workers 1 --batch-size 4"
    if loader == "torch":
        command += " --val-image-size 10 --val-resize 16"
    loaders = trainer_of(command, images, tmp_path).loaders
    (train, _), (val, _) = next(iter(loaders.train)), next(iter(loaders.val))
    assert train.shape == (4, 3, size, size)
    assert val.shape[1:] == (3, *[10 if loader == "torch" else size] * 2)
    if loader == "torch":
        smaller = trainer_of(f"{command} --val-resize 10", images, tmp_path).loaders
        assert not torch.equal(next(iter(smaller.val))[0], val)
