"""tools/benchmark_training.py: baselines do what they claim, and turns are fair."""

import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace

import benchmark_training
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD
from training_benchmark import baselines, rounds, trainee
from training_benchmark.added import measure_added
from training_benchmark.contestants import Contestant, build_contestants, build_methods
from training_benchmark.machine import caption
from training_benchmark.parts import PARTS, PartsClock, measure_parts, timed
from training_benchmark.rounds import Clock, Timings, measure
from training_benchmark.step_times import StepTimes

from sprout_fast.distributed import World
from sprout_fast.methods import METHODS

CPU = torch.device("cpu")
CLASSES, SIDE, BATCH = 3, 2, 5


@pytest.fixture
def linear(monkeypatch):
    """Trainee with a linear network, whose gradients are known in closed form."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, CLASSES))
    monkeypatch.setattr(trainee, "create_model", lambda *_, **__: model)
    return trainee.build_trainee("cifar_resnet20", CLASSES, image_size=SIDE)


@pytest.fixture
def batch(linear):
    return next(trainee.synthetic_batches(linear, BATCH))


class MeanDirichlet:
    """Returns its mean as the sample, so that gradients have the closed form of docs/method.md."""

    def __init__(self, concentration, validate_args):
        self.concentration = concentration

    def rsample(self):
        return self.concentration / self.concentration.sum(-1, keepdim=True)


class Momentum:
    """SGD with momentum on a list of tensors, written out."""

    def __init__(self, values):
        self.values = [value.detach().clone() for value in values]
        self.velocities = [torch.zeros_like(value) for value in self.values]

    def step(self, gradients, lr, momentum, weight_decay):
        for value, velocity, gradient in zip(self.values, self.velocities, gradients, strict=True):
            velocity.mul_(momentum).add_(gradient + weight_decay * value)
            value.sub_(lr * velocity)


def linear_gradients(weight, bias, inputs, label):
    """Return the gradients of the mean over rows of -sum_k label_k log softmax(W x + b)_k."""
    x = inputs.flatten(1)
    error = ((x @ weight.T + bias).softmax(1) - label) / len(x)
    return error.T @ x, error.sum(0)


def beta_gradient(logits, concentration):
    """Return the mean over rows of dE[L]/da_k = (c_k - E[L]) / a_0 (docs/method.md)."""
    c, total = -logits.log_softmax(1), concentration.sum(1, keepdim=True)
    loss = (concentration / total * c).sum(1, keepdim=True)
    return ((c - loss) / total).mean(0)


def test_authors_sprout_makes_three_steps_of_the_weights_and_one_of_u(linear, batch, monkeypatch):
    monkeypatch.setattr(baselines, "Dirichlet", MeanDirichlet)
    step = baselines.AuthorsSprout(linear)
    options = {"lr": 0.5, "momentum": 0.9, "weight_decay": 0.1}
    for optimizer in (step.optimizer, step.u_optimizer):
        optimizer.param_groups[0].update(options)
    # u's gradient is a few hundredths, so that at this rate some entries reach 0.
    step.u_optimizer.param_groups[0].update(lr=200.0, weight_decay=1e-3)
    draws = [
        (torch.rand(BATCH, 3, SIDE, SIDE), torch.tensor(0.3), torch.randperm(BATCH))
        for _ in range(3)
    ]
    feed = iter(draws)
    monkeypatch.setattr(step, "mixed", lambda images: next(feed))
    images, labels = batch
    by_hand = Momentum(linear.model.parameters())
    concentration = 10 * F.one_hot(labels, CLASSES) + 1.0
    label = concentration / concentration.sum(1, keepdim=True)
    for inputs, lam, partner in draws:
        mixed_label = lam * label + (1 - lam) * label[partner]
        by_hand.step(linear_gradients(*by_hand.values, inputs, mixed_label), **options)
    logits = (images / 255).flatten(1) @ by_hand.values[0].T + by_hand.values[1]
    ascent = beta_gradient(logits, concentration) - 1e-3  # weight decay times u = 1
    expected_u = (1 + 200 * ascent).clamp(min=0)

    step(images, labels)

    assert next(feed, None) is None  # fresh noise and Mixup in each of the three steps
    for found, expected in zip(linear.model.parameters(), by_hand.values, strict=True):
        torch.testing.assert_close(found.detach(), expected)
    torch.testing.assert_close(step.u.detach(), expected_u)
    assert (expected_u == 0).any() and (expected_u > 1).any()


def test_two_pass_sprout_steps_the_weights_and_then_beta(linear, batch, monkeypatch):
    monkeypatch.setattr(baselines, "Dirichlet", MeanDirichlet)
    step = baselines.TwoPassSprout(linear)
    options = {"lr": 0.5, "momentum": 0.9, "weight_decay": 0.1}
    step.optimizer.param_groups[0].update(options)
    step.beta_optimizer.param_groups[0].update(lr=100.0)
    images, labels = batch
    mixed, lam, partner = torch.rand(BATCH, 3, SIDE, SIDE), torch.tensor(0.3), torch.randperm(BATCH)
    monkeypatch.setattr(step, "mixed", lambda images: (mixed, lam, partner))
    mean, std = (torch.tensor(n).view(3, 1, 1) for n in (linear.setting.mean, linear.setting.std))
    inputs, one_hot = (mixed - mean) / std, F.one_hot(labels, CLASSES)
    beta = step.beta.detach().clone()
    concentration = 0.99 * (lam * one_hot + (1 - lam) * one_hot[partner]) + 0.01 * beta
    label = concentration / concentration.sum(1, keepdim=True)
    by_hand = Momentum(linear.model.parameters())
    by_hand.step(linear_gradients(*by_hand.values, inputs, label), **options)
    logits = inputs.flatten(1) @ by_hand.values[0].T + by_hand.values[1]
    expected_beta = beta + 100 * 0.01 * beta_gradient(logits, concentration)

    step(images, labels)

    for found, expected in zip(linear.model.parameters(), by_hand.values, strict=True):
        torch.testing.assert_close(found.detach(), expected)
    torch.testing.assert_close(step.beta.detach(), expected_beta.clamp(min=1e-3 / CLASSES))


def test_mixed_images_of_the_plain_sprouts(linear):
    """Both images have noise with standard deviation 0.1, and the batch shares one lam."""
    step = baselines.AuthorsSprout(linear)
    images = torch.rand(64, 3, 32, 32)
    mixed, lam, partner = step.mixed(images)
    noise = mixed - (lam * images + (1 - lam) * images[partner])
    assert lam.ndim == 0 and sorted(partner.tolist()) == list(range(64))
    fixed = partner == torch.arange(64)  # an image that is its own partner has the full noise
    expected = 0.1 * (lam**2 + (1 - lam) ** 2).sqrt()
    assert noise[~fixed].std().item() == pytest.approx(expected.item(), rel=0.02)


def test_torchvisions_natural_step_equals_natural(linear, batch):
    """From the same weights, only the weight decay of biases differs."""
    weights = {name: value.clone() for name, value in linear.model.state_dict().items()}
    found = []
    methods = build_methods(linear, ["natural"])
    for contestant in build_contestants(linear, methods, ["torchvision"])[0]:
        linear.model.load_state_dict(weights)
        contestant.step(*batch)
        found.append(linear.model[1].weight.detach().clone())
    moved = found[0] - weights["1.weight"]
    assert moved.norm() > 0
    torch.testing.assert_close(found[1] - weights["1.weight"], moved, rtol=1e-3, atol=1e-8)


def fake_timm(networks=()):
    optim = SimpleNamespace(
        create_optimizer_v2=lambda model, name, **options: SGD(model.parameters(), **options)
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, CLASSES))
    return SimpleNamespace(
        optim=optim,
        is_model=lambda arch: arch in networks,
        create_model=lambda arch, num_classes: model,
    )


def test_timm_uses_its_network_or_the_trainees_or_is_unavailable(linear, batch, monkeypatch):
    def row():
        return build_contestants(linear, build_methods(linear, ["natural"]), ["timm"])

    monkeypatch.setitem(sys.modules, "timm", None)
    contestants, unavailable = row()
    assert [c.name for c in contestants] == ["natural"]
    assert "pip install timm" in unavailable["natural (timm)"]

    for networks, is_trainees in (((), True), (("cifar_resnet20",), False)):
        timm = fake_timm(networks)
        monkeypatch.setitem(sys.modules, "timm", timm)
        monkeypatch.setitem(sys.modules, "timm.optim", timm.optim)
        (_, contestant), unavailable = row()
        before = linear.model[1].weight.detach().clone()
        contestant.step(*batch)
        assert (linear.model[1].weight != before).any() == is_trainees
        assert ("no such network" in contestant.note) == is_trainees and not unavailable


class FakeTime:
    """A clock that advances only when told to, and with the contestants' steps."""

    def __init__(self, monkeypatch):
        self.now, self.log = 0.0, []
        monkeypatch.setattr(rounds.time, "perf_counter", lambda: self.now)

    def advance(self, seconds):
        self.now += seconds

    def contestant(self, name, seconds, cost=1.0):
        def step(images, labels):
            self.log.append(name)
            self.now += next(seconds) if isinstance(seconds, Iterator) else seconds

        return Contestant(name, step, cost=cost)

    def measure(self, contestants, **options):
        endless = iter(lambda: (None, None), 0)
        options = {"progress": lambda _: None} | options
        clock = Clock(World(0, 1, CPU))
        return measure(contestants, endless, clock, base="natural", **options)


def test_contestants_take_turns_within_the_budget(monkeypatch):
    clock = FakeTime(monkeypatch)
    costs = {"natural": 1.0, "ga": 1.0, "trades": 10.0}
    contestants = [clock.contestant(*item) for item in costs.items()]
    # Warm-up costs 13 of 50; the rest is enough for two rounds of trades and 8 of the others.
    timings = clock.measure(contestants, rounds=8, steps=1, budget=50)
    assert {name: len(found) for name, found in timings.seconds.items()} == {
        "natural": 8,
        "ga": 8,
        "trades": 2,
    }
    assert clock.now <= 50
    assert timings.ratios("trades", "natural") == [10.0, 10.0]
    log = clock.log[4:]  # after the warm-up
    assert log[:5] == ["natural", "ga", "trades", "ga", "natural"]  # the order rotates
    assert timings.seconds["trades"].keys() == {0, 4}


def test_rows_without_time_are_left_out_and_the_estimate_says_so(monkeypatch):
    clock, lines = FakeTime(monkeypatch), []
    costs = {"natural": 2.0, "trades": 14.0, "ga": 2.0, "free_at": 16.0, "stable": 4.0}
    rows = [clock.contestant(*item, cost=item[1] / 2) for item in costs.items()]
    rows[4] = clock.contestant("stable", 4.0)  # guessed at half its cost
    timings = clock.measure(rows, rounds=9, budget=20, progress=lines.append)
    assert lines[1] == (
        "estimate: 2 s per natural step, 10 s for one round of 3 of 5 rows, of 18 s left;"
        " no time for free_at, trades"
    )
    assert timings.left_out == {"free_at": 16.0, "trades": 14.0}
    assert {name: len(found) for name, found in timings.seconds.items()} == {
        "natural": 2, "ga": 2, "stable": 1,
    }  # fmt: skip
    assert clock.now <= 20 and "free_at" not in clock.log and "trades" not in clock.log


@pytest.mark.parametrize("seed", range(30))
def test_the_budget_is_kept(monkeypatch, seed):
    """Whatever rows cost: up to natural's own two turns, and what a row's first guess is off."""
    random = torch.Generator().manual_seed(seed)
    clock = FakeTime(monkeypatch)
    costs = (4 * torch.randn(9, generator=random)).exp().tolist()
    guessed = [one / costs[0] * 2 ** (seed % 2) for one in costs]
    names = ["natural", *"abcdefgh"]
    rows = [clock.contestant(*item) for item in zip(names, costs, guessed, strict=True)]
    budget = 10 * costs[0] * (1 + seed % 7)
    timings = clock.measure(rows, rounds=20, steps=1, budget=budget)
    assert clock.now <= budget * (1 + 1e-9)
    assert timings.seconds.keys() | timings.left_out.keys() == set(names)
    assert not timings.seconds.keys() & timings.left_out.keys() and "natural" in timings.seconds


def test_without_time_for_more_the_first_step_is_the_result(monkeypatch):
    clock = FakeTime(monkeypatch)
    rows = [clock.contestant("natural", 9.0), clock.contestant("ga", 9.0)]
    timings = clock.measure(rows, rounds=9, budget=10)
    assert timings.seconds == {"natural": {0: 9.0}} and timings.left_out == {"ga": 9.0}
    assert clock.log == ["natural"]


def test_every_contestant_has_a_turn_regardless_of_the_budget(monkeypatch):
    clock = FakeTime(monkeypatch)
    contestants = [clock.contestant("natural", 0.01), clock.contestant("free_at", 0.08)]
    timings = clock.measure(contestants, rounds=9, budget=0, every=True)
    assert timings.steps == 25  # a quarter of a second of natural training
    assert {name: len(found) for name, found in timings.seconds.items()} == {
        "natural": 1,
        "free_at": 1,
    }
    assert timings.of("free_at") == pytest.approx([0.08])


def test_natural_is_in_every_round_even_if_steps_become_slower(monkeypatch):
    clock = FakeTime(monkeypatch)
    seconds = itertools.chain([1.0] * 4, itertools.repeat(1.7))  # warm-up, then all later steps
    contestants = [clock.contestant(name, seconds) for name in ("natural", "ga", "mixup")]
    timings = clock.measure(contestants, rounds=20, steps=1, budget=12)
    # Judging by the warm-up, two of them and natural would still fit into the second round.
    assert [list(found) for found in timings.seconds.values()] == [[0, 1], [0, 1], [0]]
    assert clock.now < 13


def test_parts_follow_the_step(linear, batch):
    """With a clock that ticks once per boundary, ticks count how often each part was entered."""
    ticks = iter(range(1000))
    expected = {
        "natural": dict(loader=1, attack=3, mixer=1, forward=1, loss=1, backward=1, optimizer=1),
        "stable": dict(loader=1, attack=4, mixer=2, forward=1, loss=1, backward=1, optimizer=1),
        "free_at": dict(loader=1, attack=17, mixer=8, forward=8, loss=8, backward=8, optimizer=8),
    }
    for name, method in build_methods(linear, expected).items():
        clock = PartsClock(CPU, now=lambda: next(ticks))
        with timed(method, linear.optimize, clock) as lent:
            clock.restart("loader")
            clock.switch("attack")
            method.training_step(lent, *batch)
            clock.switch("loader")
        assert clock.seconds == expected[name], name
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in method.modules())
    own = linear.optimize.optimizer._optimizer_step_pre_hooks.values()  # of OptimizeStep
    assert [hook.__name__ for hook in own] == ["_before_step"]


def test_parts_add_up_to_the_step_and_reveal_the_slow_one(linear, batch):
    methods = build_methods(linear, ["natural", "sprout"])
    slept = 0.02
    loss = methods["sprout"].loss
    loss.register_forward_pre_hook(lambda *_: time.sleep(slept))
    start = time.perf_counter()
    found = measure_parts(methods, linear.optimize, iter([batch] * 6), CPU, steps=3)
    whole = time.perf_counter() - start
    assert {name: len(steps) for name, steps in found.items()} == {"natural": 3, "sprout": 3}
    for steps in found.values():
        assert all(step.keys() == set(PARTS) and min(step.values()) >= 0 for step in steps)
    total = sum(sum(step.values()) for steps in found.values() for step in steps)
    assert 0.7 * whole < total <= whole
    assert all(slept <= step["loss"] for step in found["sprout"])
    assert any(step["loss"] == max(step.values()) for step in found["sprout"])


def test_added_times_only_mixer_and_loss(linear, batch, monkeypatch):
    methods = build_methods(linear, ["natural", "sprout"])
    clock = FakeTime(monkeypatch)
    for method in methods.values():
        method.mixer.register_forward_pre_hook(lambda *_: clock.advance(1.0))
        method.loss.register_forward_pre_hook(lambda *_: clock.advance(2.0))
    methods["sprout"].mixer.register_forward_pre_hook(lambda *_: clock.advance(10.0))
    linear.model.register_forward_pre_hook(lambda *_: clock.advance(100.0))
    beta, weights = methods["sprout"].beta.clone(), linear.model[1].weight.detach().clone()
    found = measure_added(linear, methods, *batch, seconds=0)
    assert found == {"natural": [3.0] * 3, "sprout": [13.0] * 3}
    assert (methods["sprout"].beta != beta).any()  # its ascent is included
    assert torch.equal(linear.model[1].weight, weights)


def step_times(**changes):
    machine = dict(gpu=None, processor="P", cores=2, cpu_isa="avx2", threads=2, torch="2")
    machine |= dict(torch_isa="AVX2", sprout_fast="0", compiler="C", python="3", others=0.0)
    seconds = {
        "natural": {0: 2.0, 1: 4.0, 2: 2.0},
        "sprout": {0: 2.0, 1: 4.4, 2: 2.2},
        "natural (torchvision)": {0: 2.5, 1: 4.4, 2: 2.2},
        "pgd_at": {1: 32.0},
    }
    values = dict(
        machine=machine,
        date="2026-01-02",
        command="python tools/benchmark_training.py",
        arch="cifar_vgg16",
        image_size=32,
        batch_size=100,
        images_per_epoch=50_000,
        setting="amp none",
        timings=Timings(1, seconds),
        unavailable={"natural (timm)": "no timm"},
        added={"natural": [1e-3, 2e-3, 1e-3], "sprout": [4e-3, 5e-3, 4.5e-3]},
    )
    return StepTimes(**values | changes)


def test_rows_of_the_table():
    rows = {row[0]: row[1:] for row in step_times().rows()}
    assert rows["natural"][:5] == ["3", "2,000 [2,000, 3,000]", "50", "1,000", "10,000"]
    assert rows["natural"][5:7] == ["1.00 [1.00, 1.00]", "1.00"]
    # Ratios are taken within a round, and pgd_at ran in the slow one.
    assert rows["pgd_at"][:7] == ["1", "32,000", "3.125", "16,000", "160,000", "8.00", "9.05"]
    assert rows["sprout"][5:7] == ["1.10 [1.05, 1.10]", "1.85"]
    assert rows["natural (timm)"][-1] == "not measured: no timm"
    four = next(step_times(processes=4).rows())
    assert four[3:6] == ["200", "250", "2,500"]  # img/s of all processes; their epoch is a quarter


def test_the_denominator_of_what_sprout_adds_is_the_replayed_step():
    seconds = {"natural": {0: 2.0}, "natural, graph": {0: 1.0}, "sprout": {0: 2.0}}
    added = next(step_times(timings=Timings(1, seconds)).floor_rows())
    assert added[2] == "0.300% (3e+03 µs)"


def test_speed_targets():
    """SPROUT adds 3 ms to 2 s; its whole step takes 0.8, 1 and 1 times that of torchvision."""
    added, whole = step_times().floor_rows()
    assert added[1:] == ["≤ 0.2%", "0.150% (3e+03 µs)", "reached"]
    assert whole[1:] == ["≤ 1.00", "1.00 [0.90, 1.00]", "too few rounds"]
    seconds = {"natural": 1.0, "sprout": 1.1, "natural (torchvision)": 1.0}
    timings = Timings(1, {name: dict.fromkeys(range(5), one) for name, one in seconds.items()})
    assert list(step_times(timings=timings).floor_rows())[1][-1] == "missed"
    slower = {"natural": [1e-3], "sprout": [6e-3]}
    assert next(step_times(added=slower).floor_rows())[-1] == "missed"
    assert next(step_times(arch="resnet18").floor_rows())[1::2] == ["none", ""]


def test_caption_warns_of_a_busy_machine():
    machine = step_times().machine
    assert "too much" not in caption(machine, "d")
    assert "other processes used 30 %" in (busy := caption(machine | {"others": 0.3}, "d"))
    assert "repeat on an idle machine" in busy


def test_every_row_is_measured_and_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "timm", None)
    threads = torch.get_num_threads()
    files = {name: tmp_path / f"table.{name}" for name in ("json", "markdown")}
    argv = "--arch cifar_resnet20 --image-size 8 --batch-size 4 --rounds 2 --steps 1 --budget 90"
    argv = [*argv.split(), "--threads", "1", *(f"--{n}={path}" for n, path in files.items())]
    try:
        assert benchmark_training.main(argv) == 0
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    found = json.loads(files["json"].read_text())
    markdown = files["markdown"].read_text()
    measured = found["timings"]["seconds"]
    baseline_rows = {kind.row for kind in baselines.BASELINES.values()}
    assert measured.keys() == METHODS.keys() | baseline_rows - {"natural (timm)"}
    assert found["machine"]["threads"] == 1 and found["batch_size"] == 4
    lines = markdown.split("\n\n")[1].splitlines()
    cells = {line.split(" | ")[0].lstrip("| "): line.split(" | ") for line in lines}
    for row, seconds in measured.items():
        assert int(cells[row][1]) == len(seconds) >= 1
        median = statistics.median(seconds.values())
        assert float(cells[row][2].split()[0].replace(",", "")) == pytest.approx(
            1e3 * median, rel=1e-2
        )
        assert float(cells[row][3].replace(",", "")) == pytest.approx(4 / median, rel=1e-2)
        epoch = float(cells[row][4].replace(",", ""))
        assert epoch == pytest.approx(50_000 / 4 * median, rel=1e-2)
        assert re.search(rf"^ *{re.escape(row)} +{len(seconds)} ", printed, re.MULTILINE)
    assert "not measured: timm cannot be imported" in markdown and "[quartiles]" in printed
    assert found["parts"].keys() == found["added"].keys() == {"natural", "sprout"}
    assert "what SPROUT adds" in markdown and "| none |" in markdown


def test_the_real_budget_is_kept(tmp_path, capsys):
    """The whole, with 16 rows that would take minutes, on a small network."""
    out = tmp_path / "table.json"
    argv = f"--arch cifar_resnet20 --batch-size 32 --threads 1 --budget 12 --json {out}"
    threads, start = torch.get_num_threads(), time.perf_counter()
    try:
        assert benchmark_training.main(argv.split()) == 0
    finally:
        torch.set_num_threads(threads)
    assert time.perf_counter() - start < 18  # this machine's other load may hold up the last turn
    captured = capsys.readouterr()
    assert captured.err.splitlines()[1].startswith("estimate: ")
    assert "no time for" in captured.err and "not measured: no time, about" in captured.out
    assert "natural" in json.loads(out.read_text())["timings"]["seconds"]


def save_images(folder, size, extension):
    from torchvision.utils import save_image

    for split in ("train", "test"):
        for name in ("cat", "dog", "eel"):
            (folder / split / name).mkdir(parents=True)
            for number in range(4):
                path = folder / split / name / f"{number}.{extension}"
                save_image(torch.rand(3, size, size), path)


def run_in_processes(*argv):
    """Run the program as a user would; in it, --world starts processes of their own."""
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    program = benchmark_training.__file__
    command = [sys.executable, program, "--device", "cpu", "--world", "2", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def test_throughput_of_two_processes_with_the_real_loader(tmp_path):
    """DALI feeds two processes, which exchange gradients; one table counts the images of both."""
    save_images(tmp_path / "data", 24, "jpg")
    out = tmp_path / "table.json"
    argv = "--arch cifar_resnet20 --image-size 16 --batch-size 3 --methods sprout --rounds 2"
    argv += " --steps 1 --baselines torchvision,authors --parts none --budget 120 --loader dali"
    argv += f" --data {tmp_path / 'data'} --json {out}"
    done = run_in_processes(*argv.split())
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("estimate:") == 1 and done.stdout.count("natural (torchvision)") == 2
    assert "batch size 3 x 2 processes" in done.stdout and "loader dali" in done.stdout
    found = json.loads(out.read_text())
    assert found["processes"] == 2
    seconds = found["timings"]["seconds"]
    assert seconds.keys() == {"natural", "natural (torchvision)", "sprout", "sprout (authors)"}
    assert all(len(times) == 2 for times in seconds.values())
    shown = re.search(r"^ *sprout +2 +\S+ \S+ \S+ +(\S+)", done.stdout, re.MULTILINE)
    median = statistics.median(seconds["sprout"].values())
    assert float(shown[1].replace(",", "")) == pytest.approx(6 / median, rel=1e-2)
    assert found["added"].keys() == {"natural", "sprout"} and not found["parts"]


def test_a_mistake_in_several_processes_is_one_line():
    done = run_in_processes("--data", "nowhere")
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "nowhere" in done.stderr


def test_the_number_of_processes_is_torchruns(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert benchmark_training.main(["--world", "2"]) == 2
    assert "--world 2: the environment variable WORLD_SIZE is 4" in capsys.readouterr().err


def test_batches_of_a_data_set(tmp_path, capsys):
    save_images(tmp_path / "data", 8, "png")
    out = tmp_path / "table.json"
    argv = "--arch cifar_resnet20 --image-size 8 --batch-size 4 --rounds 1 --steps 1 --budget 1"
    argv += f" --methods natural --baselines none --json {out}"
    assert benchmark_training.main([*argv.split(), "--data", str(tmp_path / "data")]) == 0
    assert "12 training" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert found["images_per_epoch"] == 12 and found["timings"]["seconds"].keys() == {"natural"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--arch resnet999", "resnet999"),
        (
            "--methods natural,trade",
            "--methods trade: expected one of natural, .*did you mean trades",
        ),
        (
            "--baselines tim",
            "--baselines tim: expected one of torchvision, timm.*did you mean timm",
        ),
        ("--parts trades --methods sprout", "--parts trades: expected one of natural, sprout"),
        ("--rounds 0", "--rounds 0: must be a number >= 1"),
        ("--budget nan", "--budget nan: must be"),
        ("--batch-size 1", "--batch-size 1: must be a number >= 2"),
        ("--world 0", "--world 0: must be a number >= 1"),
        ("--loader torch", "--loader torch: requires data"),
        ("--data nowhere", "nowhere"),
        ("--json nowhere/t.json", "--json nowhere/t.json: no such folder"),
        ("--device tpu", "--device tpu"),
        ("--amp fp8", "--amp fp8: .*bf16, fp16, none"),
        ("--speed 3", "unknown option --speed"),
    ],
)
def test_usage_errors_are_one_line(argv, message, capsys):
    assert benchmark_training.main(argv.split()) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert re.fullmatch(f"benchmark_training.py: error: .*{message}.*\n", captured.err)
