"""The training loop against a replay in plain PyTorch, and resumed, interrupted, diverging."""

from __future__ import annotations

import csv
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_run import (
    BATCH,
    CLASSES,
    MEAN,
    STD,
    FakeLoader,
    assert_same,
    make_trainer,
    method_setting,
    tiny_network,
)
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sprout_fast import reference
from sprout_fast.errors import FatalError
from sprout_fast.methods import build_method
from sprout_fast.models import read_checkpoint
from sprout_fast.training.checkpoint import read_run_checkpoint
from sprout_fast.training.loop import Outcome, Trainer
from sprout_fast.training.metrics import COLUMNS
from sprout_fast.training.optim import (
    learning_rate_factor,
)

SPROUT_COLUMNS = ("true_class_mass", "beta_min", "beta_mean", "beta_max")


class CountOps(TorchDispatchMode):
    """Counts calls of each op, by its full name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split(".")[0]
        self.calls[name] = self.calls.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def replay(model: nn.Module, loss_options: dict[str, Any], beta_lr: float, **run: Any) -> Tensor:
    """Take four SPROUT steps on ``model`` in plain PyTorch, in place, and return beta.

    Written from Algorithm 1 with the reference implementations, without any of the trainer's code.
    """
    loader, offset = FakeLoader(4), 0
    beta = torch.rand(CLASSES, generator=torch.Generator().manual_seed(11)) * 10 / CLASSES
    velocity = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    decayed = {name for name, p in model.named_parameters() if p.ndim > 1}
    model.train()
    accumulated, grad_beta = 0, torch.zeros(CLASSES)
    every, step = run.get("accumulation_steps", 1), 0
    for index in range(4):
        images, labels = loader.batch(0, index)
        state = torch.tensor([11, offset, 0])
        offset += 1
        partner, lam = reference.sample_mixup(BATCH, state, mixup_alpha=0.2)
        inputs = reference.gaussian_mixup(
            images, partner, lam, state, sigma=0.1, mean=MEAN, std=STD
        )
        leaf = beta.clone().requires_grad_()
        loss = reference.sprout_loss(
            model(inputs), labels, labels[partner], lam, leaf, state, **loss_options
        )
        (loss / every).backward()
        grad_beta += leaf.grad
        accumulated += 1
        if accumulated < every:
            continue
        factor = learning_rate_factor(step, warmup_steps=2 // every, total_steps=run["total_steps"])
        lr = 0.2 * factor
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                gradient = parameter.grad + (0.01 * parameter if name in decayed else 0)
                velocity[name].mul_(0.9).add_(gradient)
                parameter.sub_(lr * velocity[name])
                parameter.grad = None
            size = beta_lr * BATCH * every * factor  # beta_lr is per image
            beta = (beta + size * grad_beta).clamp(min=1e-3 / CLASSES)
        accumulated, step = 0, step + 1
        grad_beta = torch.zeros(CLASSES)
    return beta


@pytest.mark.parametrize(
    ("options", "loss_options", "accumulation_steps"),
    [
        ({"beta_lr": 5.0}, {"beta_grad": "implicit"}, 1),
        (
            {"beta_lr": 0.05, "scale": 11.0, "alpha": 1 / 11, "beta_grad": "expected"},
            {"beta_grad": "expected", "scale": 11.0, "alpha": 1 / 11},
            1,
        ),
        ({"beta_lr": 5.0}, {"beta_grad": "implicit"}, 2),
    ],
    ids=["paper", "authors-scale", "accumulation"],
)
def test_four_steps_equal_a_replay_in_plain_pytorch(
    options: dict[str, Any], loss_options: dict[str, Any], accumulation_steps: int
) -> None:
    trained, replayed = tiny_network(), tiny_network()
    trained[5].p = replayed[5].p = 0.0  # dropout would draw from a generator that both share
    trainer = make_trainer(
        model=trained, epochs=1, accumulation_steps=accumulation_steps, **options
    )
    before = trainer.method.beta.clone()
    assert trainer.fit() is Outcome.FINISHED
    beta = replay(
        replayed,
        loss_options,
        options["beta_lr"],
        accumulation_steps=accumulation_steps,
        total_steps=4 // accumulation_steps,
    )
    assert (trainer.method.beta - before).abs().max() > 1e-3, "beta was not trained"
    torch.testing.assert_close(trainer.method.beta, beta, rtol=1e-4, atol=1e-5)
    for (name, ours), theirs in zip(
        trained.state_dict().items(), replayed.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: n + m)
    fresh = tiny_network().state_dict()
    assert (trained.state_dict()["0.weight"] - fresh["0.weight"]).abs().max() > 1e-3


def test_every_training_step_uses_the_compiled_ops() -> None:
    for method, expected in (("sprout", 4), ("natural", 4)):
        trainer = make_trainer(method=method, epochs=1)
        with CountOps() as ops:
            trainer.fit()
        assert ops.calls["sprout_fast::gaussian_mixup"] == expected, method
        assert ops.calls.get("sprout_fast::sprout_loss_", 0) == (4 if method == "sprout" else 0)
        assert ops.calls["sprout_fast::meter_step_"] == expected
        assert ops.calls.get("sprout_fast::sprout_loss_backward", 0) <= 4


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("sprout", {}),
        ("sprout", {"ema": 0.9}),
        ("sprout", {"weight_steps": 3, "beta_batch": "clean", "beta_lr": "lr"}),
        ("natural", {}),
        ("pgd_at", {"attack_steps": 2}),
        ("trades", {"attack_steps": 2}),
        ("free_at", {"replays": 2}),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    method: str, options: dict[str, Any], tmp_path: Path
) -> None:
    whole, half = tmp_path / "whole", tmp_path / "half"
    whole.mkdir(), half.mkdir()

    def trainer_in(folder: Path) -> Trainer:
        return make_trainer(folder, method=method, epochs=3, **options)

    full = trainer_in(whole)
    passes = full.method.passes
    assert full.fit() is Outcome.FINISHED
    for stop in (4, 3, 2):  # at the end of an epoch, then twice within one
        trainer = trainer_in(half)
        if (half / "last.pt").exists():
            trainer.restore(read_checkpoint(half / "last.pt"))
        assert trainer.fit(max_steps=stop * passes) is Outcome.MAX_STEPS
    resumed = trainer_in(half)
    resumed.restore(read_checkpoint(half / "last.pt"))
    assert resumed.position.step == 9 * passes
    assert resumed.fit() is Outcome.FINISHED
    one, two = (read_checkpoint(folder / "last.pt") for folder in (whole, half))
    assert_same(one, two)
    compared = ("epoch", "step", "val_top1", "val_top5", "val_loss", "lr")
    compared += ("beta_mean",) * (method == "sprout")
    rows = [
        [[row[column] for column in compared] for row in read_rows(folder)]
        for folder in (whole, half)
    ]
    assert len(rows[0]) == 3 and rows[0] == rows[1]


def test_max_steps_finishes_a_batch_with_several_steps() -> None:
    trainer = make_trainer(method="free_at", replays=3, epochs=2)
    assert trainer.fit(max_steps=4) is Outcome.MAX_STEPS
    assert trainer.position.step == 6


def test_ema_follows_the_weights() -> None:
    trainer = make_trainer(ema=0.5, epochs=1)
    values = []
    step = trainer.optimize.scheduler.step

    def noted() -> None:
        values.append(trainer.model[0].weight.detach().clone())
        step()

    trainer.optimize.scheduler.step = noted
    trainer.fit()
    expected = values[0]
    for count, value in enumerate(values[1:], start=1):
        decay = min(0.5, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(trainer.optimize.ema.module[0].weight, expected)
    assert not torch.allclose(expected, values[-1]) and len(values) == 4


def read_rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv") as file:
        return list(csv.DictReader(file))


def test_checkpoint_keys_and_best_has_the_best_accuracy(tmp_path: Path) -> None:
    started = time.monotonic()
    make_trainer(tmp_path, epochs=4).fit()
    elapsed = time.monotonic() - started
    content = read_checkpoint(tmp_path / "last.pt")
    wanted = "format model ema beta optimizer scaler rng_state loader epoch step config"
    assert set(wanted.split()) <= set(content)
    assert (content["epoch"], content["step"]) == (4, 16)
    assert torch.equal(content["beta"], content["rng_state"]["method"]["loss.beta"])
    rows = read_rows(tmp_path)
    seconds = [float(row["seconds"]) for row in rows]
    assert min(seconds) > 0 and sum(seconds) < elapsed
    top1 = [float(row["val_top1"]) for row in rows]
    best = read_checkpoint(tmp_path / "best.pt")
    assert best["epoch"] == top1.index(max(top1)) + 1
    assert best["best_top1"] == pytest.approx(max(top1), abs=1e-5)
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".*"))


def test_keep_every_keeps_copies_also_in_a_resumed_run(tmp_path: Path) -> None:
    make_trainer(tmp_path, epochs=3, keep_every=1).fit(max_steps=8)
    kept = {file.name: file.read_bytes() for file in tmp_path.glob("epoch-*.pt")}
    assert sorted(kept) == ["epoch-001.pt", "epoch-002.pt"]
    resumed = make_trainer(tmp_path, epochs=3, keep_every=1)
    resumed.restore(read_checkpoint(tmp_path / "last.pt"))
    assert resumed.fit() is Outcome.FINISHED
    files = sorted(tmp_path.glob("epoch-*.pt"))
    assert [file.name for file in files] == ["epoch-001.pt", "epoch-002.pt", "epoch-003.pt"]
    for epoch, file in enumerate(files, start=1):
        content = read_checkpoint(file)
        assert (content["epoch"], content["step"]) == (epoch, 4 * epoch)
        assert kept.get(file.name) in (None, file.read_bytes())
        make_trainer(epochs=3).restore(content)
    assert_same(read_checkpoint(files[-1])["model"], resumed.model.state_dict())
    (tmp_path / "every_second").mkdir()
    make_trainer(tmp_path / "every_second", epochs=3, keep_every=2).fit()
    assert [file.name for file in tmp_path.glob("every_second/epoch-*.pt")] == ["epoch-002.pt"]


def test_metrics_rows_and_events(tmp_path: Path) -> None:
    make_trainer(tmp_path, epochs=2).fit()
    rows = read_rows(tmp_path)
    assert tuple(rows[0]) == (*COLUMNS, *SPROUT_COLUMNS) and [row["epoch"] for row in rows] == [
        "1",
        "2",
    ]
    for row in rows:
        assert all(row[column] != "" for column in rows[0])
        assert 0 <= float(row["train_acc"]) <= 1 and 0 < float(row["true_class_mass"]) <= 1
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload()
    assert {"train/loss", "epoch/val_top1"} <= set(events.Tags()["scalars"])
    recorded = [scalar.value for scalar in events.Scalars("epoch/val_top1")]
    assert recorded == pytest.approx([float(row["val_top1"]) for row in rows], abs=1e-5)


def test_natural_training_has_no_columns_for_sprout(tmp_path: Path) -> None:
    make_trainer(tmp_path, method="natural", epochs=1).fit()
    (row,) = read_rows(tmp_path)
    assert tuple(row) == COLUMNS and row["val_loss"] != ""
    assert read_checkpoint(tmp_path / "last.pt")["beta"] is None


def test_accumulation_drops_an_incomplete_group_but_reads_it() -> None:
    trainer = make_trainer(epochs=2, batches=5, accumulation_steps=2)
    trainer.fit()
    assert trainer.position.step == 4  # two complete groups per epoch
    assert trainer.loaders.train.read == 10  # a loader counts complete epochs
    assert trainer.method.loss.rng.state[1] == 8


def test_a_method_may_take_several_steps_per_batch() -> None:
    method = build_method("natural", method_setting())
    one_step = method.training_step

    def three_steps(optimize, images, labels):
        for _ in range(3):
            one_step(optimize, images, labels)

    method.passes, method.training_step = 3, three_steps
    trainer = make_trainer(method=method, epochs=2)
    assert trainer.steps_per_epoch == 12
    assert trainer.fit() is Outcome.FINISHED
    assert trainer.position.step == 24
    assert trainer.optimize.optimizer.param_groups[0]["lr"] == 0.0  # the cosine ends with the run


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_trains_and_keeps_float32_weights(amp: str, tmp_path: Path) -> None:
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[amp]
    trainer = make_trainer(tmp_path, epochs=1, amp=amp)
    before = trainer.model[0].weight.detach().clone()
    seen: list[torch.dtype] = []
    trainer.method.loss.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    trainer.fit()
    assert set(seen) == {dtype}  # the model ran under autocast, the loss got its output
    assert trainer.model[0].weight.dtype is torch.float32
    assert not torch.equal(trainer.model[0].weight, before)
    assert bool(read_checkpoint(tmp_path / "last.pt")["scaler"]) == (amp == "fp16")


def test_the_memory_format_reaches_the_model() -> None:
    for memory_format in (torch.channels_last, torch.contiguous_format):
        trainer = make_trainer(epochs=1)
        trainer.optimize.memory_format = memory_format
        formats: list[bool] = []
        trainer.model.register_forward_pre_hook(
            lambda _, inputs, seen=formats, wanted=memory_format: seen.append(
                inputs[0].is_contiguous(memory_format=wanted)
            )
        )
        trainer.fit(max_steps=1)
        assert formats == [True]


def test_a_loss_that_is_not_finite_stops_the_run_at_that_step(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, epochs=2)

    calls: list[int] = []

    def breaks(module: nn.Module, inputs: Any, loss: Tensor) -> Tensor:
        calls.append(1)
        return loss * float("nan") if len(calls) == 7 else loss

    trainer.method.loss.register_forward_hook(breaks)
    with pytest.raises(FatalError, match="not finite at step 7:"):
        trainer.fit()
    kept = read_checkpoint(tmp_path / "last.pt")
    assert kept["epoch"] == 1 and all(v.isfinite().all() for v in kept["model"].values())


def test_ctrl_c_saves_a_step_that_a_run_can_resume_from(tmp_path: Path) -> None:
    whole = make_trainer(epochs=2)
    whole.fit()
    trainer = make_trainer(tmp_path, epochs=2)
    step = trainer.method.training_step

    def interrupted_step(optimize, images, labels):
        if trainer.position.step == 5:
            os.kill(os.getpid(), signal.SIGINT)
        step(optimize, images, labels)

    trainer.method.training_step = interrupted_step
    handler = signal.getsignal(signal.SIGINT)
    assert trainer.fit() is Outcome.INTERRUPTED
    assert signal.getsignal(signal.SIGINT) is handler
    content = read_checkpoint(tmp_path / "last.pt")
    assert (content["epoch"], content["step"]) == (1, 6)
    resumed = make_trainer(epochs=2)
    resumed.restore(content)
    assert resumed.fit() is Outcome.FINISHED
    assert_same(whole.model.state_dict(), resumed.model.state_dict())


def test_ctrl_c_during_validation_loses_nothing(tmp_path: Path) -> None:
    whole = make_trainer(epochs=2)
    whole.fit()
    trainer = make_trainer(tmp_path, epochs=2)

    class Interrupting(FakeLoader):
        def __iter__(self):
            os.kill(os.getpid(), signal.SIGINT)
            yield from super().__iter__()

    object.__setattr__(trainer.loaders, "val", Interrupting(1, seed=9, train=False))
    assert trainer.fit() is Outcome.INTERRUPTED
    content = read_checkpoint(tmp_path / "last.pt")
    assert (content["epoch"], content["step"]) == (0, 4)
    resumed = make_trainer(epochs=2)
    resumed.restore(content)
    assert resumed.fit() is Outcome.FINISHED
    assert_same(whole.model.state_dict(), resumed.model.state_dict())


def test_a_second_ctrl_c_stops_without_saving(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, epochs=2)

    def stuck_step(optimize, images, labels):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(3):  # torchrun repeats the one of the terminal, at once
            os.kill(os.getpid(), signal.SIGINT)
        trainer.interrupt._noted_at -= 2  # two seconds later
        os.kill(os.getpid(), signal.SIGTERM)  # a scheduler may repeat it: no reason to hurry
        stopped.append(False)
        os.kill(os.getpid(), signal.SIGINT)
        stopped.append(True)

    stopped: list[bool] = []
    trainer.method.training_step = stuck_step
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert stopped == [False]
    assert not (tmp_path / "last.pt").exists() and not list(tmp_path.glob(".*"))


def test_a_low_true_class_mass_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(epochs=1)
    trainer.fit()
    assert "warning" not in capsys.readouterr().out
    trainer = make_trainer(epochs=1)
    trainer.method.beta.fill_(1e3)
    trainer.fit()
    lines = capsys.readouterr().out.splitlines()
    (warning,) = [line for line in lines if line.startswith("warning")]
    assert "true class" in warning and "mass_floor" in warning


def test_restore_keeps_new_options_and_old_momentum_buffers(tmp_path: Path) -> None:
    make_trainer(tmp_path, epochs=2).fit(max_steps=4)
    content = read_checkpoint(tmp_path / "last.pt")
    trainer = make_trainer(epochs=2, lr=0.05)
    trainer.optimize.optimizer.param_groups[0]["weight_decay"] = 0.5
    trainer.restore(content)
    group = trainer.optimize.optimizer.param_groups[0]
    assert group["weight_decay"] == 0.5
    factor = learning_rate_factor(4, warmup_steps=2, total_steps=8)
    assert group["lr"] == pytest.approx(0.05 * factor)
    momentum = trainer.optimize.optimizer.state[group["params"][0]]["momentum_buffer"]
    assert torch.equal(momentum, content["optimizer"]["state"][0]["momentum_buffer"])


def test_another_number_of_steps_per_epoch_continues_with_the_rest_of_the_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_trainer(tmp_path, epochs=2).fit(max_steps=2)
    trainer = make_trainer(epochs=2, accumulation_steps=2)
    trainer.restore(read_checkpoint(tmp_path / "last.pt"))
    assert trainer.position.step == 1  # two of four batches are one of two steps
    capsys.readouterr()
    assert trainer.fit(max_steps=1) is Outcome.MAX_STEPS
    assert "continues after 12 of its 24 images" in capsys.readouterr().out
    assert trainer.loaders.train.read == 2 and trainer.position.step == 2
    make_trainer(tmp_path, epochs=2).fit(max_steps=4)
    trainer.restore(read_checkpoint(tmp_path / "last.pt"))
    assert trainer.position.step == 2  # in steps of the new schedule
    assert trainer.fit() is Outcome.FINISHED and trainer.position.step == 4


@pytest.mark.parametrize("steps", [1, 3])
def test_the_last_learning_rate_is_restored(steps: int, tmp_path: Path) -> None:
    """The row of an epoch whose steps were all made before the run was resumed has it."""
    whole, again = make_trainer(tmp_path), make_trainer(tmp_path)
    whole.fit(max_steps=steps)
    again.restore(read_run_checkpoint(tmp_path / "last.pt"), tmp_path / "last.pt")
    assert again.optimize.last_lr == whole.optimize.last_lr > 0
