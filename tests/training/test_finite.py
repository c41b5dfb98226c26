"""Values that are not finite: skipped by the loss scaler, or reported with step and name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_run import FakeLoader, assert_same, make_trainer
from torch import Tensor
from torch.amp import GradScaler

from sprout_fast.errors import FatalError
from sprout_fast.models import read_checkpoint
from sprout_fast.training import loop, progress
from sprout_fast.training.loop import Outcome, Trainer


def fp16_trainer(out: Path | None = None, **options: Any) -> Trainer:
    """Return a trainer whose first steps overflow, since the loss scale is too large."""
    options = {"epochs": 2, "amp": "fp16"} | options
    trainer = make_trainer(out, **options)
    # It grows again after three steps, so that later ones overflow too.
    trainer.optimize.scaler = GradScaler("cpu", init_scale=2.0**19, growth_interval=3)
    return trainer


@pytest.mark.parametrize("ema", [None, 0.9])
def test_skipped_steps_change_nothing_but_the_count(
    ema: float | None, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = fp16_trainer(ema=ema, method="natural")
    optimize, seen = trainer.optimize, []
    step = trainer.method.training_step

    def noted(*arguments: Any) -> None:
        weights = trainer.model[0].weight.detach().clone()
        averages = None if ema is None else optimize.ema.module[0].weight.clone()
        before, scheduled = optimize.skipped, optimize.scheduler.last_epoch
        step(*arguments)
        skipped = optimize.skipped > before
        seen.append(skipped)
        assert torch.equal(weights, trainer.model[0].weight) == skipped
        assert (optimize.scheduler.last_epoch == scheduled) == skipped
        if ema is not None:
            assert torch.equal(averages, optimize.ema.module[0].weight) == skipped

    trainer.method.training_step = noted
    assert trainer.fit() is Outcome.FINISHED
    assert trainer.position.step == len(seen) == 8  # batches count for the epoch
    assert seen[0] and seen.count(True) >= 2 and seen.count(False) >= 2
    assert optimize.scheduler.last_epoch == seen.count(False)
    assert f"{seen.count(True)} steps skipped by the loss scaler" in capsys.readouterr().out


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_run_with_skipped_steps_resumes_bit_for_bit(ema: float | None, tmp_path: Path) -> None:
    whole = fp16_trainer(ema=ema)
    whole.fit()
    for stop in (1, 2, 5):  # after a skipped step too
        trainer = fp16_trainer(tmp_path, ema=ema)
        if (tmp_path / "last.pt").exists():
            trainer.restore(read_checkpoint(tmp_path / "last.pt"))
        trainer.fit(max_steps=stop)
    assert whole.optimize.skipped == trainer.optimize.skipped >= 2
    assert_same(whole._content(), trainer._content())


def test_a_scaler_that_skips_every_step_stops_the_run(tmp_path: Path) -> None:
    trainer = fp16_trainer(tmp_path, epochs=2, batches=16)
    for parameter in trainer.model.parameters():
        parameter.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(FatalError) as error:
        trainer.fit()
    assert "skipped each of the 30 optimizer steps up to step 30" in str(error.value)
    assert f"the last good checkpoint is {tmp_path / 'last.pt'}, of step 16" in str(error.value)
    # An optimizer that does not know the scaler, such as apex's, is not called instead.
    trainer = fp16_trainer(epochs=20, batches=15)
    trainer.optimize.optimizer._step_supports_amp_scaling = False
    trainer.model[0].weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(FatalError, match="no checkpoint has been saved"):
        trainer.fit()
    assert trainer.model[0].weight.isfinite().all()


def broken(trainer: Trainer, what: str, step: int) -> None:
    """Make a gradient, a weight or beta of optimizer step ``step``, from 1, NaN."""
    weight = trainer.model[6].weight
    if what == "gradient":
        calls: list[int] = []

        def hook(gradient: Tensor) -> Tensor:
            calls.append(1)
            return gradient * float("nan") if len(calls) == step else gradient

        weight.register_hook(hook)
        return
    after = trainer.optimize.optimizer.step

    def stepped(*arguments: Any) -> None:
        after(*arguments)
        if trainer.optimize.steps == step - 1:
            with torch.no_grad():
                (weight if what == "weight" else trainer.method.beta).view(-1)[1] = float("nan")

    trainer.optimize.optimizer.step = stepped


@pytest.mark.parametrize(
    ("what", "name"),
    [("gradient", "6.weight"), ("weight", "model.6.weight"), ("beta", "beta")],
)
def test_detect_anomaly_names_step_and_tensor(what: str, name: str, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, detect_anomaly=True)
    broken(trainer, what, 6)
    with pytest.raises(FatalError) as error:
        trainer.fit()
    assert name in str(error.value) and "at step 6" in str(error.value)
    assert str(error.value).endswith(f"is {tmp_path / 'last.pt'}, of step 4")
    assert not torch.is_anomaly_enabled()


def test_detect_anomaly_names_the_operation() -> None:
    trainer = make_trainer(detect_anomaly=True)

    def root(module: Any, inputs: Any, output: Tensor) -> Tensor:
        return output + (output.detach() * 0 + output.sum() * 0).sqrt()  # its gradient is 0 / 0

    trainer.model.register_forward_hook(root)
    with (
        pytest.warns(UserWarning, match="Traceback of forward call"),
        pytest.raises(FatalError, match="at step 1: Function '.*' returned nan"),
    ):
        trainer.fit()


@pytest.mark.parametrize("what", ["weight", "beta"])
def test_without_detect_anomaly_they_are_named_when_read(what: str, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    broken(trainer, what, 8)  # the last step: no later loss shows it
    name = "model.6.weight" if what == "weight" else "beta"
    with pytest.raises(FatalError, match=f"^{name} not finite at step 8, finite at step 5;"):
        trainer.fit()
    kept = read_checkpoint(tmp_path / "last.pt")
    assert kept["step"] == 4 and kept["model"]["6.weight"].isfinite().all()


@pytest.mark.parametrize("how", ["interrupt", "background"])
def test_a_checkpoint_within_an_epoch_has_finite_weights(how: str, tmp_path: Path) -> None:
    """The loss of a step is that before its update, so it does not show these weights."""
    trainer = make_trainer(tmp_path, save_every="2" if how == "background" else None)
    broken(trainer, "weight", 6)
    with pytest.raises(FatalError, match=r"model.6.weight"):
        trainer.fit(max_steps=6 if how == "interrupt" else None)
    kept = read_checkpoint(tmp_path / "last.pt")
    assert kept["step"] in (4, 5) and kept["model"]["6.weight"].isfinite().all()
    assert not list(tmp_path.glob(".*"))


def test_a_starved_step_is_named_with_the_speed_of_the_loader(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "PLAIN_INTERVAL", 0.0)

    class Slow(FakeLoader):
        def batch(self, epoch: int, index: int) -> tuple[Tensor, Tensor]:
            if epoch == 1:
                loop.time.sleep(0.25)
            return super().batch(epoch, index)

    trainer = make_trainer()
    object.__setattr__(trainer.loaders, "train", Slow())
    trainer.fit()
    lines = capsys.readouterr().out.splitlines()
    (warning,) = [line for line in lines if "waiting for data" in line and "step 6:" in line]
    assert warning.startswith("warning: step 6: ") and "the loader gives " in warning
    speed = float(warning.split("the loader gives ")[1].split()[0])
    assert 5 < speed < 24  # 6 images in 0.25 s and the step
