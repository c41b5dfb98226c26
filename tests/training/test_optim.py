"""Optimizers, parameter groups, learning rate schedules, clipping and averages."""

import math
import sys
import types

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sprout_fast import MixupTarget
from sprout_fast.errors import UserError
from sprout_fast.training.optim import (
    MovingAverage,
    build_optimizer,
    build_scheduler,
    learning_rate_factor,
    parameter_groups,
)
from sprout_fast.training.step import OptimizeStep


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


def test_an_average_is_updated_at_intervals() -> None:
    model = nn.Linear(1, 1, bias=False)
    every, third = MovingAverage(model, 0.9), MovingAverage(model, 0.9, interval=3)
    for call in range(9):
        nn.init.constant_(model.weight, float(call))
        third.update()
        if call % 3 == 0:
            every.update()
        assert torch.equal(third.module.weight, every.module.weight)
    assert third.updates == 9


def test_adamw_and_lamb_take_decay_and_betas(model: nn.Module) -> None:
    options = {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.05}
    adamw = build_optimizer("adamw", model, **options)
    assert type(adamw) is torch.optim.AdamW and adamw.defaults["fused"]
    lamb = build_optimizer("timm-lamb", model, **options)
    assert type(lamb).__name__ == "Lamb"
    for optimizer in (adamw, lamb):
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]
        assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.999)}


@pytest.mark.parametrize("name", ["sgd", "adamw", "timm-lamb"])
def test_prepared_state_gives_the_steps_of_an_optimizer_without(name: str) -> None:
    weights = [nn.Parameter(torch.ones(3, 2)) for _ in range(2)]
    modules = [nn.ParameterList([weight]) for weight in weights]
    one, two = (
        build_optimizer(
            name, module, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=name == "sgd"
        )
        for module in modules
    )
    two.state.clear()
    for number in range(3):
        for optimizer, weight in zip((one, two), weights, strict=True):
            weight.grad = torch.arange(6.0).view(3, 2) - number
            optimizer.step()
        assert torch.equal(*weights)


def test_nesterov_is_torchs(model: nn.Module) -> None:
    optimizer = build_optimizer("sgd", model, lr=0.1, momentum=0.9, weight_decay=0.0, nesterov=True)
    assert all(group["nesterov"] for group in optimizer.param_groups)


def test_lamb_without_timm_is_a_user_error(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm.optim.lamb", None)
    with pytest.raises(UserError, match="timm-lamb: needs timm"):
        build_optimizer("timm-lamb", model, lr=0.1, momentum=0.9, weight_decay=0.0)


def test_tokens_and_embeddings_have_no_decay() -> None:
    import timm
    from torchvision.models import VisionTransformer

    vit = VisionTransformer(8, 4, 1, 2, 8, 16)
    decayed, others = (
        {name for name, p in vit.named_parameters() if any(p is q for q in group["params"])}
        for group in parameter_groups(vit, 0.1)
    )
    assert {"class_token", "encoder.pos_embedding"} <= others
    assert "encoder.layers.encoder_layer_0.self_attention.in_proj_weight" in decayed
    other = timm.create_model("vit_tiny_patch16_224", depth=1)
    undecayed = parameter_groups(other, 0.1)[1]["params"]
    assert any(other.pos_embed is p for p in undecayed)


def test_the_rate_decays_from_layer_to_layer_of_a_transformer() -> None:
    from torchvision.models import VisionTransformer

    vit = VisionTransformer(8, 4, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=16)
    options = {"lr": 0.8, "momentum": 0.9, "weight_decay": 0.1, "layer_decay": 0.5}
    optimizer = build_optimizer("adamw", vit, **options)
    rate_of = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    expected = {"class_token": 0.05, "conv_proj.weight": 0.05, "encoder.pos_embedding": 0.05}
    expected |= {f"encoder.layers.encoder_layer_{i}.mlp.0.weight": 0.1 * 2**i for i in range(3)}
    expected |= {"encoder.ln.weight": 0.8, "heads.head.weight": 0.8}
    for name, rate in expected.items():
        assert rate_of[vit.get_parameter(name)] == pytest.approx(rate), name
    assert optimizer.param_groups[0]["lr"] == 0.8  # the log's
    build_scheduler(optimizer, warmup_steps=2, total_steps=4)
    assert optimizer.param_groups[-1]["lr"] == pytest.approx(0.025)
    with pytest.raises(UserError, match="layer_decay the network has no blocks"):
        build_optimizer("adamw", nn.Sequential(nn.Linear(2, 2)), **options)


def test_the_cosine_ends_at_the_floor_and_steps_divide_by_ten() -> None:
    shape = {"warmup_steps": 2, "total_steps": 10}
    rates = [learning_rate_factor(step, floor=0.1, **shape) for step in range(12)]
    assert rates[:2] == [0.5, 1.0] and rates[6] == pytest.approx(0.55)
    assert rates[10] == rates[11] == 0.1 and min(rates) == 0.1
    stepped = [learning_rate_factor(s, "step", drop_steps=4, **shape) for s in range(10)]
    assert stepped == pytest.approx([0.5, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("fp16", [False, True])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_gradients_are_clipped_by_their_unscaled_norm(fp16: bool, name: str) -> None:
    """With the loss scaler on as well, whose gradients are 65,536 times as large."""
    model = nn.Linear(2, 1, bias=False)
    optimizer = build_optimizer(name, model, lr=1.0, momentum=0.0, weight_decay=0.0)
    scheduler = build_scheduler(optimizer, warmup_steps=0, total_steps=10**9)
    scaler = torch.amp.GradScaler("cpu", enabled=fp16)
    step = OptimizeStep(model, model, optimizer, scheduler, scaler, clip_grad=0.5)
    seen = []

    def record(optimizer, *arguments) -> None:
        # A fused optimizer receives clipped gradients and no scale to divide them by.
        assert getattr(optimizer, "grad_scale", None) is None
        seen.append(model.weight.grad.clone())

    optimizer.register_step_pre_hook(record)
    inputs = torch.tensor([[[[3.0, 4.0]]]])  # the gradient of the sum: norm 5
    step.memory_format = torch.contiguous_format
    target = MixupTarget(torch.tensor([0]))
    step(inputs, target, lambda logits, _: logits.sum())
    torch.testing.assert_close(seen[0], torch.tensor([[0.3, 0.4]]), rtol=1e-5, atol=0)
    step(inputs * 0.01, target, lambda logits, _: logits.sum())
    torch.testing.assert_close(seen[1], torch.tensor([[0.03, 0.04]]), rtol=1e-5, atol=0)


def test_a_step_that_overflows_is_skipped_with_clipping_too() -> None:
    model = nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    optimizer = build_optimizer("sgd", model, lr=1.0, momentum=0.9, weight_decay=0.0)
    scheduler = build_scheduler(optimizer, warmup_steps=0, total_steps=10**9)
    scaler = torch.amp.GradScaler("cpu", enabled=True)
    step = OptimizeStep(model, model, optimizer, scheduler, scaler, clip_grad=0.5)
    step.memory_format = torch.contiguous_format
    inputs, target = torch.full((1, 1, 1, 2), 1e36), MixupTarget(torch.tensor([0]))
    step(inputs, target, lambda logits, _: logits.sum())
    assert step.skipped == 1 and torch.equal(model.weight, before)


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
