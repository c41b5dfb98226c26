"""Sharded networks train, save and resume like others, and so do those with less activations."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_run import assert_same, make_trainer
from PIL import Image
from torch import nn

from sprout_fast.attacks import Attack
from sprout_fast.distributed import World, held_port, joined_world
from sprout_fast.models import Normalized, load_model
from sprout_fast.training.build import build_trainer
from sprout_fast.training.checkpoint import read_run_checkpoint
from sprout_fast.training.command import train_cifar
from sprout_fast.training.config import CifarConfig
from sprout_fast.training.loop import Outcome, Trainer
from sprout_fast.training.parallel import blocks, checkpoint_activations, whole_weights
from sprout_fast.training.progress import Display
from sprout_fast.training.run import resolve

pytest.importorskip("torchvision")
gloo = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")


def tiny_transformer(num_classes: int) -> nn.Module:
    from torchvision.models import VisionTransformer

    # An odd width of the MLP, which two processes cannot share equally.
    return VisionTransformer(
        image_size=32,
        patch_size=8,
        num_layers=3,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=31,
        num_classes=num_classes,
    )


ARCH = f"{__name__}:tiny_transformer"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 48 training and 15 validation images of three classes."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 5)):
        for label in range(3):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8)
                pixels[8:24, 8:24, label] += 120
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def built(world: World, data: Path, out: Path, resumed: bool = False, **options: Any) -> Trainer:
    config = CifarConfig(arch=ARCH, data=data, out=out, device="cpu", epochs=2, lr=0.1, **options)
    config.batch_size = 12 // world.size // config.accumulation_steps
    config.check()
    if world.is_main:
        out.mkdir(exist_ok=True)
    world.barrier()
    config.resume = out / "last.pt" if resumed else None
    checkpoint = read_run_checkpoint(out / "last.pt") if resumed else None
    return build_trainer(resolve(config, world), world, Display(enabled=False), checkpoint)


# Without noise and Mixup, whose draws depend on an image's place among the processes, two of them
# equal one.
NATURAL = {"method": "natural", "ema": 0.9, "accumulation_steps": 2, "fsdp": True}
SPROUT = {"ema": 0.9, "accumulation_steps": 2}
# Runs of two processes by name: their options, and the sharded one that is to equal each.
PAIRS: dict[str, dict[str, Any]] = {
    "sprout": SPROUT,
    "trades": {"method": "trades"},
    "bf16": {"amp": "bf16", "activation_checkpointing": True},
    "fp16": {"amp": "fp16"},
}


def two_ranks(rank: int, port: int, data: Path, out: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with joined_world("cpu") as world:
        for name, options in PAIRS.items():
            for fsdp in (False, True):
                folder = out / f"{name}{' sharded' * fsdp}"
                trainer = built(world, data, folder, fsdp=fsdp, **options)
                assert trainer.fit() is Outcome.FINISHED
        parameters = list(trainer.model.parameters())
        shapes = [parameter.to_local().shape for parameter in parameters]
        assert sum(shape.numel() for shape in shapes) < 0.6 * sum(p.numel() for p in parameters)

        # Attacks of as many steps, and on as many batches, as each process likes.
        with whole_weights(trainer.evaluated):
            attack = Attack("pgd", trainer.evaluated, steps=2 + rank)
            for index, (batch, labels) in enumerate(trainer.loaders.val):
                if index <= rank:
                    attack(batch / 255, labels)
        assert [parameter.to_local().shape for parameter in trainer.model.parameters()] == shapes

        # From two processes to one, from one to two, and from sharded to not sharded.
        built(world, data, out / "to one", **NATURAL).fit(max_steps=3)
        trainer = built(world, data, out / "from one", resumed=True, **NATURAL)
        assert trainer.position.step == 3
        trainer.fit()
        built(world, data, out / "to ddp", fsdp=True, **SPROUT).fit(max_steps=3)
        built(world, data, out / "to ddp", resumed=True, fsdp=False, **SPROUT).fit()

        # A signal to one of the processes, and a checkpoint in the background.
        options: dict[str, Any] = SPROUT | {"fsdp": True, "save_every": "1"}
        trainer = built(world, data, out / "signal", **options)
        step, saved = trainer.method.training_step, []
        if trainer._writer is not None:
            report = trainer._report_saved
            trainer._report_saved = lambda done: (saved.append(done), report(done))

        def signaled(*arguments: Any) -> None:
            if rank == 1 and trainer.position.step == 5:
                os.kill(os.getpid(), signal.SIGUSR1)
            step(*arguments)

        trainer.method.training_step = signaled
        assert trainer.fit() is Outcome.INTERRUPTED
        assert (trainer.interrupt.status, trainer.position.step) == (75, 7)
        assert any(saved) == world.is_main
        world.barrier()
        built(world, data, out / "signal", resumed=True, **options).fit()


@pytest.fixture(scope="module")
def runs(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of runs of two processes, and of one process in ``one`` and ``to one``."""
    if not torch.distributed.is_gloo_available():
        pytest.skip("needs gloo")
    out, one = tmp_path_factory.mktemp("runs"), World(0, 1, torch.device("cpu"))
    built(one, images, out / "one", **NATURAL).fit()
    built(one, images, out / "from one", **NATURAL).fit(max_steps=3)
    with held_port() as port:
        torch.multiprocessing.spawn(two_ranks, (port, images, out), nprocs=2)
    assert read_run_checkpoint(out / "to one" / "last.pt")["step"] == 3
    built(one, images, out / "to one", resumed=True, **NATURAL).fit()
    return out


def assert_close(one: Path, two: Path, atol: float = 2e-6, resumed: bool = False) -> None:
    """Assert that two runs end with the same state, and with the same losses on the way.

    Training losses of an epoch within which a run ``resumed`` are those of a part of it.
    """
    first, second = (read_run_checkpoint(folder / "last.pt") for folder in (one, two))
    for content in (first, second):
        del content["config"], content["rng_state"]["torch"]
        for group in content["optimizer"]["param_groups"]:
            del group["fused"]
    flat_one, flat_two = map(flattened, (first, second))
    assert flat_one.keys() == flat_two.keys()
    for name, value in flat_one.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(flat_two[name], value, rtol=1e-5, atol=atol, msg=name)
        elif isinstance(value, float):
            assert flat_two[name] == pytest.approx(value, rel=1e-5), name
        else:
            assert flat_two[name] == value, name
    rows = [np.loadtxt(f / "metrics.csv", delimiter=",", skiprows=1) for f in (one, two)]
    columns = [0, 1, *([] if resumed else [2, 3]), 4, 5, 6, 7]
    np.testing.assert_allclose(rows[0][:, columns], rows[1][:, columns], rtol=max(1e-5, 10 * atol))


def flattened(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key in value for k, v in flattened(value[key], f"{name}/{key}").items()}
    if isinstance(value, list):
        return flattened(dict(enumerate(value)), name)
    return {name: value}


@gloo
@pytest.mark.parametrize("name", PAIRS)
def test_sharded_runs_equal_those_of_ddp(name: str, runs: Path) -> None:
    # The attack of TRADES steps by the sign of a gradient, which may be near 0.
    assert_close(runs / name, runs / f"{name} sharded", 1e-3 if name == "trades" else 2e-6)


@gloo
@pytest.mark.parametrize("name", ["to one", "from one", "to ddp", "signal"])
def test_a_run_resumes_sharded_or_not(name: str, runs: Path) -> None:
    assert_close(runs / ("one" if "one" in name else "sprout"), runs / name, resumed=True)


@gloo
def test_a_checkpoint_of_a_sharded_run_loads_anywhere(runs: Path) -> None:
    content = torch.load(runs / "sprout sharded" / "last.pt", weights_only=True)
    network = tiny_transformer(3)
    network.load_state_dict(content["model"])
    assert all(type(value) is torch.Tensor for value in content["ema"].values())
    other = load_model(runs / "sprout sharded" / "last.pt", arch=ARCH)  # the averaged weights
    assert_same(other.model.state_dict(), content["ema"])


@gloo
def test_a_sharded_job_ends_when_a_process_is_killed(images: Path, tmp_path: Path) -> None:
    tool = (
        "import sys; from sprout_fast.training.command import train_cifar; sys.exit(train_cifar())"
    )
    (tmp_path / "tool.py").write_text(tool)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    options = ["--arch", ARCH, "--data", images, "--batch-size", "4", "--epochs", "100000"]
    job = subprocess.Popen(
        [*torchrun, "--nproc-per-node", "2", tmp_path / "tool.py", *options, "--fsdp"]
        + ["--out", tmp_path / "run", "--device", "cpu"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until = time.monotonic() + 100
        while not (tmp_path / "run" / "best.pt").exists():
            assert job.poll() is None and time.monotonic() < until
            time.sleep(0.2)
        workers = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
        ranks = {
            int(pid): b"RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            for pid in workers
        }
        (last,) = [pid for pid, is_last in ranks.items() if is_last]
        os.kill(last, signal.SIGKILL)
        killed = time.monotonic()
        shown = job.communicate(timeout=60)[1]
        assert job.returncode == 1 and time.monotonic() - killed < 30, shown
    finally:
        job.kill()
    lines = [line for line in shown.splitlines() if line.startswith("tool.py: error:")]
    assert all("process 1 of 2" in line and "was killed" in line for line in lines), shown


class Block(nn.Module):
    """A residual block that counts its forward passes."""

    passes = 0

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2)
        )
        self.norm = nn.BatchNorm2d(4, momentum=None)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        Block.passes += 1
        return inputs + self.norm(self.layers(inputs))


def residual_network() -> nn.Module:
    torch.manual_seed(4)
    body = nn.ModuleDict({"one": Block(), "two": Block()})
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), *body.values(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )


@pytest.mark.parametrize("options", [{}, {"amp": "bf16"}, {"method": "pgd_at"}])
def test_recomputed_activations_change_no_bit(options: dict[str, Any]) -> None:
    contents, passes = [], []
    for recompute in (False, True):
        model = residual_network()
        if recompute:
            assert checkpoint_activations(model) == 2
        Block.passes = 0
        trainer = make_trainer(model=model, ema=0.9, **options)
        trainer.fit()
        contents.append(trainer._content())
        passes.append(Block.passes)
    assert_same(*contents)
    assert contents[0]["model"]["1.layers.1.num_batches_tracked"] >= 8
    assert passes[1] > 1.3 * passes[0]


def test_a_graph_that_is_kept_is_recomputed_twice() -> None:
    model = residual_network()
    checkpoint_activations(model)
    total = model(torch.rand(2, 3, 8, 8)).square().sum()
    total.backward(retain_graph=True)
    first = [parameter.grad.clone() for parameter in model.parameters()]
    total.backward()
    for parameter, gradient in zip(model.parameters(), first, strict=True):
        assert torch.equal(parameter.grad, 2 * gradient)


@pytest.mark.parametrize(
    ("arch", "count"),
    [("resnet18", 8), ("swin_t", 15), ("densenet121", 58), ("convnext_tiny", 18), ("vgg11", 0)],
)
def test_blocks_are_the_repeated_ones(arch: str, count: int) -> None:
    import torchvision

    with torch.device("meta"):
        model = getattr(torchvision.models, arch)()
    found = blocks(model)
    assert len(found) == count
    inside = [id(module) for block in found for module in block.modules()]
    assert len(inside) == len(set(inside))


def test_blocks_of_stages_that_are_no_containers() -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        model = timm.create_model("convnext_atto")
    assert {type(block).__name__ for block in blocks(model)} == {"ConvNeXtBlock"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--fsdp --compile default", "--fsdp excluded by compile"),
        (
            "--activation-checkpointing --compile default",
            "--activation-checkpointing excluded by compile",
        ),
        (
            "--fsdp --optimizer apex-fused-sgd",
            "--fsdp needs optimizer sgd or adamw, got apex-fused-sgd",
        ),
        (
            "--activation-checkpointing --arch vgg11",
            "--activation-checkpointing vgg11: has no repeated blocks in a Sequential, ModuleList"
            " or ModuleDict",
        ),
    ],
)
def test_what_cannot_be_combined_is_one_line(
    options: str,
    message: str,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["tool.py"])
    where = ["--data", str(images), "--out", str(tmp_path / "run"), "--device", "cpu"]
    where += ["--batch-size", "8"]
    assert train_cifar([*where, *options.split()]) == 2
    assert capsys.readouterr().err.splitlines() == [f"tool.py: error: {message}"]
    assert not (tmp_path / "run").exists()


def test_attacks_see_a_network_with_recomputed_activations() -> None:
    plain, recomputed = residual_network().eval(), residual_network().eval()
    checkpoint_activations(recomputed)
    batch = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    attacked = [
        Attack("pgd", Normalized(model, (0.5,) * 3, (0.25,) * 3), steps=3, eps=0.1)(*batch)
        for model in (plain, recomputed)
    ]
    assert torch.equal(*attacked)
