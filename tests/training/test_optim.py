"""Parameter groups, learning rate schedules, and the optimizer of apex."""

import math
import sys
import types

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sprout_fast.errors import UserError
from sprout_fast.training.optim import (
    MovingAverage,
    build_optimizer,
    build_scheduler,
    learning_rate_factor,
    parameter_groups,
)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def test_norms_and_biases_are_not_decayed(model: nn.Module) -> None:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, free = (
        {names[id(p)] for p in group["params"]} for group in parameter_groups(model, 0.1)
    )
    assert decayed == {"0.weight", "3.weight"}
    assert free == {"0.bias", "1.weight", "1.bias", "3.bias"}
    optimizer = build_optimizer("sgd", model, lr=1.0, momentum=0.0, weight_decay=0.5)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, old, new in zip(names.values(), before, model.parameters(), strict=True):
        torch.testing.assert_close(new, old * (0.5 if name in decayed else 1))


def test_sgd_is_fused_and_without_nesterov(model: nn.Module) -> None:
    optimizer = build_optimizer("sgd", model, lr=0.1, momentum=0.9, weight_decay=0.0)
    assert type(optimizer) is torch.optim.SGD
    for group in optimizer.param_groups:
        assert group["fused"] and not group["nesterov"]


def test_warmup_is_linear_and_the_cosine_ends_at_zero(model: nn.Module) -> None:
    optimizer = build_optimizer("sgd", model, lr=0.4, momentum=0.9, weight_decay=0.0)
    scheduler = build_scheduler(optimizer, warmup_steps=4, total_steps=12)
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[1]["lr"])
        optimizer.step()
        scheduler.step()
    torch.testing.assert_close(rates[:5], [0.1, 0.2, 0.3, 0.4, 0.4])
    assert rates[8] == pytest.approx(0.2)  # halfway down
    assert all(later < earlier for earlier, later in zip(rates[4:], rates[5:], strict=False))
    assert optimizer.param_groups[1]["lr"] == 0.0


def test_without_apex_the_error_says_how_to_install_it(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "apex", None)  # an import of it fails
    with pytest.raises(UserError) as error:
        build_optimizer("apex-fused-sgd", model, lr=0.1, momentum=0.9, weight_decay=0.0)
    message = str(error.value)
    assert "not installed" in message and "github.com/NVIDIA/apex" in message
    assert "PyPI" in message and "optimizer sgd" in message


def test_the_unrelated_apex_of_pypi_is_recognized(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = types.ModuleType("apex")
    other.__file__ = "/site-packages/apex/__init__.py"
    monkeypatch.setitem(sys.modules, "apex", other)
    monkeypatch.delitem(sys.modules, "apex.optimizers", raising=False)
    with pytest.raises(UserError, match="/site-packages/apex/__init__.py is not NVIDIA's"):
        build_optimizer("apex-fused-sgd", model, lr=0.1, momentum=0.9, weight_decay=0.0)


def stand_in_apex(monkeypatch: pytest.MonkeyPatch, works: bool = True) -> list[dict]:
    """Install a module with the interface of apex and return the list of its calls."""
    calls: list[dict] = []

    class FusedSGD(torch.optim.SGD):
        def __init__(  # the parameters of NVIDIA's
            self, params, lr, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False
        ) -> None:
            if not works:
                raise RuntimeError("apex.optimizers.FusedSGD requires cuda extensions")
            super().__init__(params, lr, momentum, dampening, weight_decay, nesterov)

        def step(self, closure=None):
            calls.append({"lr": self.param_groups[0]["lr"]})
            return super().step(closure)

        def zero_grad(self) -> None:  # NVIDIA's has no set_to_none
            super().zero_grad()

    package, optimizers = types.ModuleType("apex"), types.ModuleType("apex.optimizers")
    optimizers.FusedSGD = FusedSGD
    package.optimizers = optimizers
    monkeypatch.setitem(sys.modules, "apex", package)
    monkeypatch.setitem(sys.modules, "apex.optimizers", optimizers)
    return calls


def test_norm_decay_applies_to_norms_and_biases(model: nn.Module) -> None:
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
    for norm_decay, decays in ((False, [5e-4, 0.0]), (True, [5e-4, 5e-4])):
        optimizer = build_optimizer("sgd", model, norm_decay=norm_decay, **options)
        assert [group["weight_decay"] for group in optimizer.param_groups] == decays


def test_apex_is_used_if_installed(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = stand_in_apex(monkeypatch)
    optimizer = build_optimizer("apex-fused-sgd", model, lr=0.1, momentum=0.9, weight_decay=1e-4)
    assert type(optimizer) is sys.modules["apex.optimizers"].FusedSGD
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-4, 0.0]
    model(torch.ones(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    assert calls == [{"lr": 0.1}]


def test_apex_without_its_cuda_extensions_is_a_user_error(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in_apex(monkeypatch, works=False)
    with pytest.raises(UserError, match="requires cuda extensions"):
        build_optimizer("apex-fused-sgd", model, lr=0.1, momentum=0.9, weight_decay=0.0)


def test_a_step_that_the_scaler_skips_leaves_no_unwritten_momentum() -> None:
    """The first fp16 step often overflows; deterministic mode fills fresh memory with NaN."""
    linear = nn.Linear(3, 2, bias=False)
    before = linear.weight.detach().clone()
    optimizer = build_optimizer("sgd", linear, lr=0.1, momentum=0.9, weight_decay=0.0)
    scaler = torch.amp.GradScaler("cpu")
    torch.use_deterministic_algorithms(True)
    try:
        for gradient in (torch.inf, scaler.get_scale() * 2.0):  # skipped, then taken
            linear.weight.grad = torch.full_like(linear.weight, gradient)
            scaler.scale(torch.ones(1))
            scaler.step(optimizer)
            scaler.update()
    finally:
        torch.use_deterministic_algorithms(False)
    taken = 2.0 * 2  # the scale was halved in between
    assert torch.equal(linear.weight, before - 0.1 * taken)
    assert torch.equal(optimizer.state[linear.weight]["momentum_buffer"], torch.full((2, 3), taken))


def test_a_moving_average_equals_torchs_and_copies_counters() -> None:
    """Bit for bit, without AveragedModel's copies to the device and its loop over counters."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    ema = MovingAverage(model, decay=0.5)

    def update(averages, values, _):
        done = ema.updates - 1
        get_ema_multi_avg_fn(min(0.5, (1 + done) / (10 + done)))(averages, values, done)

    theirs = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    for _ in range(12):
        with torch.no_grad():
            model(torch.randn(5, 3, 4, 4))
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter)
        ema.update()
        theirs.update_parameters(model)
    mine, other = ema.module.state_dict(), theirs.module.state_dict()
    assert mine.pop("1.num_batches_tracked") == 12
    for name, value in mine.items():
        assert torch.equal(value, other[name]), name


def test_an_update_of_a_moving_average_moves_no_data_between_devices() -> None:
    """Nor does it read a value: on a GPU each would wait for all that is queued."""
    with torch.device("meta"):  # tensors without data, which can be neither read nor copied
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    ema = MovingAverage(model, decay=0.5)
    for _ in range(3):
        ema.update()
    assert ema.updates == 3


def test_stages_divide_by_ten_after_40_70_and_90_percent() -> None:
    factors = [
        learning_rate_factor(s, "stages", warmup_steps=0, total_steps=200) for s in range(201)
    ]
    expected = [1.0] * 80 + [0.1] * 60 + [0.01] * 40 + [0.001] * 20 + [0.0]
    assert factors == expected


def test_warmup_is_linear_and_the_cosine_is_half_a_period() -> None:
    factors = [learning_rate_factor(s, warmup_steps=4, total_steps=24) for s in range(25)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    for step, factor in enumerate(factors[4:]):
        assert factor == pytest.approx(0.5 + 0.5 * math.cos(math.pi * step / 20), abs=1e-12)
