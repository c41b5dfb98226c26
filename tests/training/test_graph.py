"""``cuda_graph``: what it refuses, and whether one captured step serves for all.

Nothing is captured without a GPU. Here the step that would be captured is recorded op by op, which
shows what a graph would hold; the last tests need a GPU and are part of ``make gpu-check``.
"""

from __future__ import annotations

import csv
import ctypes
import dataclasses
import subprocess
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.recorded_launches import Launches
from helpers.tiny_run import (
    CLASSES,
    SIZE,
    FakeLoader,
    assert_same,
    make_trainer,
    method_setting,
    tiny_network,
)
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sprout_fast.data import make_sample_set
from sprout_fast.distributed import World
from sprout_fast.errors import UserError
from sprout_fast.methods import METHODS, Method, build_method
from sprout_fast.random import PhiloxState
from sprout_fast.training.command import train_imagenet
from sprout_fast.training.config import TrainConfig
from sprout_fast.training.graph import (
    NCCL_ERROR_HANDLING,
    CapturedStep,
    StaticStep,
    check_capturable,
)
from sprout_fast.training.loop import Trainer
from sprout_fast.training.meter import Meter
from sprout_fast.training.optim import build_scheduler

CPU = torch.device("cpu")
CAPTURABLE = sorted(name for name in METHODS if METHODS.look_up(name).capturable)
PLAIN = [n for n in CAPTURABLE if METHODS.look_up(n).training_step is Method.training_step]
SPROUT_OPTIONS = [
    {},
    {"beta_grad": "expected", "mass_floor": 0.9},
    {"beta_lr": "lr", "beta_momentum": 0.9, "beta_weight_decay": 5e-4, "labels_per_pair": 2},
    {"beta_batch": "clean", "label_mode": "mean"},
    {"modules": "ga,mixup,ls"},
    {"weight_steps": 3},
    {"weight_steps": 2, "beta_batch": "clean", "beta_lr": "lr", "beta_momentum": 0.9},
]
CASES = [(name, {}) for name in CAPTURABLE] + [("sprout", options) for options in SPROUT_OPTIONS]


def ready(**options) -> tuple[Trainer, StaticStep]:
    """Return a trainer as it is within an epoch, and its step."""
    torch.manual_seed(5)  # of the attacks
    trainer = make_trainer(epochs=1, batches=8, **options)
    trainer.model.train()
    trainer.method.train()
    trainer.optimize.meter = Meter(CPU)
    return trainer, StaticStep(trainer.method, trainer.optimize)


def take(step: StaticStep, images: Tensor, labels: Tensor) -> None:
    step.load(images, labels)
    step.run()
    step.finish()


def readings(trainer: Trainer) -> tuple[float, float]:
    """Return the mean loss and the accuracy that the meter has counted."""
    assert trainer.optimize.meter is not None
    reading = trainer.optimize.meter.read()
    return reading.loss, reading.accuracy


def test_the_methods_that_can_be_captured():
    plain = {"natural", "ls", "ga", "ga_ls", "mixup"}
    assert plain <= set(PLAIN) and "sprout" not in PLAIN
    attacking = {"pgd_at", "fast_at", "free_at", "trades"}
    assert {"sprout", "stable", "bilateral"} | attacking <= set(CAPTURABLE)


@pytest.mark.parametrize(("method", "options"), CASES)
def test_a_static_step_trains_as_the_step_does(method, options):
    """With learning rates in tensors, weights, beta, momenta and meter are the same bit for bit."""
    # After the pass for beta, a captured step averages batch norm statistics that include it.
    # Between several steps on a batch, it averages nothing, and is refused.
    passes = build_method(method, method_setting(), **options).passes
    ema = None if options.get("beta_batch") == "clean" or passes > 1 else 0.9
    (plain, _), (static, step) = (ready(method=method, ema=ema, **options) for _ in range(2))
    torch.manual_seed(6)
    for images, labels in FakeLoader(8):
        plain.method.training_step(plain.optimize, images, labels)
    torch.manual_seed(6)
    for images, labels in FakeLoader(8):
        take(step, images, labels)
    for trainer in (plain, static):
        trainer.position.step = trainer.optimize.steps
    assert static.position.step == 8 * passes and static.optimize.last_lr == plain.optimize.last_lr
    assert_same(plain._content(), static._content())
    assert readings(static) == readings(plain)


@pytest.mark.parametrize(("method", "options"), CASES)
def test_each_step_launches_the_same(method, options):
    """What a graph keeps is the same in each step: ops, numbers, shapes and addresses."""
    trainer, step = ready(method=method, **options)
    batches = list(FakeLoader(8))
    for batch in batches[:3]:
        take(step, *batch)
    logs, rates = [], []
    for images, labels in batches[3:6]:
        step.load(images, labels)
        rates.append(trainer.optimize.lr)
        with Launches() as launches:
            step.run()
        logs.append(launches.log)
        step.finish()
    assert len(set(rates)) == 3  # the schedule has moved on
    assert len(logs[0]) > 20
    assert logs[0] == logs[1] == logs[2]


def test_adamw_counts_on_the_device():
    """Its steps are the same with learning rates in tensors, and each launches the same."""
    (plain, _), (static, _) = (ready(method="sprout") for _ in range(2))
    for trainer in (plain, static):
        groups = trainer.optimize.optimizer.param_groups
        rates = {"lr": groups[0]["lr"], "weight_decay": 0.1}
        adamw = torch.optim.AdamW(trainer.model.parameters(), fused=True, **rates)
        trainer.optimize.optimizer = adamw
        trainer.optimize.scheduler = build_scheduler(adamw, warmup_steps=2, total_steps=8)
    step, logs = StaticStep(static.method, static.optimize), []
    torch.manual_seed(6)
    for images, labels in FakeLoader(8):
        plain.method.training_step(plain.optimize, images, labels)
    torch.manual_seed(6)
    for images, labels in FakeLoader(8):
        step.load(images, labels)
        with Launches() as launches:
            step.run()
        logs.append(launches.log)
        step.finish()
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(static.model.state_dict()[name], value, rtol=1e-5, atol=1e-7)
    assert logs[3] == logs[4] == logs[5]


def faulty(method: Method, fault: str) -> Method:
    """Give a method a step that cannot be captured, in one of several ways."""
    state = {"count": 0, "sum": torch.zeros(())}

    def training_step(optimize, images, labels) -> None:
        inputs, target = method.mixer(images, labels)
        state["count"] += 1
        if fault == "number":
            inputs = inputs * (1 + 1 / state["count"])
        elif fault == "rebinds":
            state["sum"] = state["sum"] + inputs.mean()
        elif fault == "branch" and state["count"] % 2:
            inputs = inputs.flip(3)
        elif fault == "constant":
            inputs = inputs + torch.tensor(0.1 * state["count"])
        elif fault == "reads" and inputs.mean() > 100:
            return
        optimize(inputs, target, method.loss)

    method.training_step = training_step
    return method


@pytest.mark.parametrize("fault", ["", "number", "rebinds", "branch", "constant", "reads"])
def test_what_a_graph_cannot_hold_is_seen(fault):
    """The comparison above finds each kind of step that replays would not repeat."""
    _, step = ready(method=faulty(build_method("natural", method_setting()), fault))
    logs = []
    try:
        for batch in list(FakeLoader(4)):
            step.load(*batch)
            with Launches() as launches:
                step.run()
            logs.append(launches.log)
            step.finish()
    except AssertionError as error:
        assert fault == "reads" and "reads from the device" in str(error)
    else:
        assert (logs[2] == logs[3]) == (fault == "")


@pytest.mark.parametrize(
    ("method", "options"), [case for case in CASES if case[0] in [*PLAIN, "sprout"]]
)
def test_mixer_loss_and_beta_stay_on_the_gpu(method, options):
    """On tensors of a GPU without contents, nothing is copied from or to the host."""
    with FakeTensorMode(), torch.no_grad():
        setting = method_setting(device="cuda")
        built = build_method(method, setting, **options).train()
        images = torch.zeros(6, 3, SIZE, SIZE, dtype=torch.uint8, device="cuda")
        labels = torch.zeros(6, dtype=torch.int64, device="cuda")
        logits = torch.zeros(6, CLASSES, device="cuda")
        with Launches() as launches:
            inputs, target = built.mixer(images, labels)
            loss = built.loss(logits, target)
        assert inputs.device.type == loss.device.type == "cuda" and launches.log


def config(**changes) -> TrainConfig:
    return dataclasses.replace(TrainConfig(), amp="none", cuda_graph=True, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulation_steps": 4}, "got accumulation_steps 4, expected 1: every batch replays"),
        ({"amp": "fp16"}, "got amp fp16, expected bf16 or none: the schedule waits"),
        ({"compile": "reduce-overhead"}, "got compile reduce-overhead, which captures CUDA graphs"),
        ({"compile": "max-autotune"}, "got compile max-autotune, which captures CUDA graphs"),
        ({"detect_anomaly": True}, "excluded by detect_anomaly, which reads"),
        ({"fsdp": True}, "excluded by fsdp, which allocates"),
        ({"activation_checkpointing": True}, "excluded by activation_checkpointing, which saves"),
    ],
)
def test_options_that_exclude_a_graph(changes, message):
    options = config(**{k: v for k, v in changes.items() if k != "amp"})
    options.amp = changes.get("amp", "none")
    method = build_method("sprout", method_setting())
    with pytest.raises(UserError, match=message) as raised:
        check_capturable(options, method, World(0, 1, torch.device("cuda", 0)))
    assert raised.value.option == "cuda_graph" and "\n" not in str(raised.value)


def test_methods_and_devices_that_exclude_a_graph(monkeypatch):
    gpu, plain = World(0, 1, torch.device("cuda", 0)), build_method("sprout", method_setting())
    for mode in (None, "default", "max-autotune-no-cudagraphs"):
        check_capturable(config(compile=mode), plain, gpu)
    with pytest.raises(UserError, match="needs a GPU, got device cpu"):
        check_capturable(config(), plain, World(0, 1, CPU))
    passes = build_method("sprout", method_setting(), weight_steps=3)
    check_capturable(config(), passes, gpu)
    with pytest.raises(UserError, match="by ema with method sprout, whose 3 optimizer steps per"):
        check_capturable(config(ema=0.9), passes, gpu)
    monkeypatch.setattr(type(plain), "capturable", False)
    with pytest.raises(UserError, match="not supported by method sprout, whose step is decided"):
        check_capturable(config(), plain, gpu)


def test_processes_need_nccls_error_handling_off():
    pair, method = World(1, 2, torch.device("cuda", 1)), build_method("natural", method_setting())
    check_capturable(config(), method, pair, {NCCL_ERROR_HANDLING: "0"})
    for environment, got in (({}, "not set"), ({NCCL_ERROR_HANDLING: "1"}, "1")):
        with pytest.raises(UserError, match=f"{NCCL_ERROR_HANDLING} to be 0 .*, got {got}"):
            check_capturable(config(), method, pair, environment)


def test_optimizers_with_numbers_of_the_host_are_refused():
    trainer = make_trainer()
    trainer.optimize.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
    with pytest.raises(UserError, match="got optimizer SGD, whose learning rate is the host's"):
        StaticStep(trainer.method, trainer.optimize)


def test_a_method_takes_as_many_optimizer_steps_as_it_says():
    trainer, step = ready(method="natural")
    once = trainer.method.training_step
    trainer.method.training_step = lambda *given: [once(*given), once(*given)]
    step.load(*FakeLoader(1).batch(0, 0))
    with pytest.raises(RuntimeError, match="natural: took 2 optimizer steps .*, expected .*, 1"):
        step.run()


def test_batches_of_another_shape_are_refused():
    _, step = ready(method="natural")
    images, labels = FakeLoader(1).batch(0, 0)
    take(step, images, labels)
    with pytest.raises(UserError, match=rf"got a batch \[2, 3, {SIZE}, {SIZE}\] after \[6, 3, "):
        step.load(images[:2], labels[:2])


def test_checkpoints_and_schedule_keep_the_rates_of_the_host():
    trainer, step = ready(method="natural")
    for batch in FakeLoader(2):
        take(step, *batch)
    groups = trainer.optimize.optimizer.state_dict()["param_groups"]
    assert all(isinstance(group["lr"], float) for group in groups)
    assert groups[0]["lr"] == trainer.optimize.lr


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def train_on_gpu(method: str, captured: bool, steps: int = 12, **options) -> Trainer:
    """Take steps on a GPU, all of them launched or most of them replayed."""
    world = World(0, 1, torch.device("cuda", torch.cuda.current_device()))
    torch.manual_seed(5)
    model = tiny_network().to(world.device)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    built = build_method(method, method_setting(device=world.device), **options).to(world.device)
    trainer = make_trainer(method=built, model=model, epochs=1, batches=steps, world=world)
    trainer.optimize.network.to(world.device)
    trainer.optimize.meter = Meter(world.device)
    model.train()
    built.train()
    launch = partial(built.training_step, trainer.optimize)
    step = CapturedStep(built, trainer.optimize, world) if captured else launch
    for images, labels in FakeLoader(steps):
        step(images.to(world.device), labels.to(world.device))
    return trainer


@needs_gpu
@pytest.mark.parametrize(("method", "options"), CASES)
def test_replays_train_as_launches_do(method, options):
    """Weights, beta, momenta, random states, schedule and meter after 3 launches and 9 replays."""
    launched, replayed = (train_on_gpu(method, captured, **options) for captured in (False, True))
    for name, value in launched.model.state_dict().items():
        torch.testing.assert_close(replayed.model.state_dict()[name], value, rtol=1e-3, atol=1e-5)
    if launched.method.beta is not None:
        torch.testing.assert_close(replayed.method.beta, launched.method.beta, rtol=1e-3, atol=1e-6)
    states = [
        [m.state.tolist() for m in trainer.method.modules() if isinstance(m, PhiloxState)]
        for trainer in (launched, replayed)
    ]
    assert states[0] == states[1]  # each replay has drawn new numbers
    passes = launched.method.passes
    assert replayed.optimize.steps == launched.optimize.steps == 12 * passes
    assert replayed.optimize.last_lr == launched.optimize.last_lr
    assert readings(replayed)[0] == pytest.approx(readings(launched)[0], rel=1e-3)


@needs_gpu
def test_another_thread_may_use_the_device_during_the_capture():
    """Other threads, such as DALI's, allocate, free, and wait for their own streams."""
    stop, device = threading.Event(), torch.cuda.current_device()
    cudart = ctypes.CDLL("libcudart.so.13")
    results: list[int] = []

    def work() -> None:
        cudart.cudaSetDevice(device)
        stream, memory = torch.cuda.Stream(device), ctypes.c_void_p()
        while not stop.is_set():
            results.append(cudart.cudaMalloc(ctypes.byref(memory), ctypes.c_size_t(2**20)))
            with torch.cuda.stream(stream):
                torch.ones(1000, pin_memory=True).to(device, non_blocking=True).mul_(2)
            stream.synchronize()
            results.append(cudart.cudaFree(memory))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(5):
            train_on_gpu("sprout", captured=True, steps=6)
    finally:
        stop.set()
        thread.join()
    assert len(results) > 10 and not any(results)


@needs_gpu
def test_a_network_that_reads_a_value_is_refused_in_one_line():
    class Reading(nn.Flatten):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * (2 if x.mean() > 0 else 1))

    device = torch.device("cuda", torch.cuda.current_device())
    model = nn.Sequential(Reading(), nn.Linear(3 * SIZE * SIZE, CLASSES)).to(device)
    method = build_method("natural", method_setting(device=device)).to(device)
    trainer = make_trainer(method=method, model=model, world=World(0, 1, device))
    step = CapturedStep(method, trainer.optimize, trainer.world)
    with pytest.raises(UserError, match="the step cannot be captured: ") as raised:
        for images, labels in FakeLoader(4):
            step(images.to(device), labels.to(device))
    assert "\n" not in str(raised.value)


@needs_gpu
def test_a_run_with_dali_and_its_resumption(tmp_path):
    """The loss after a run with replays is that of one without; the run resumes."""
    make_sample_set(tmp_path / "data")
    losses = {}
    for name, more in (("launched", []), ("replayed", ["--cuda-graph"])):
        argv = f"--arch resnet18 --data {tmp_path / 'data'} --image-size 32 --batch-size 16".split()
        argv += f"--epochs 2 --lr 0.01 --out {tmp_path / name} --final-attack-images 0".split()
        assert train_imagenet([*argv, *more, "--max-steps", "70"]) == 0
        assert train_imagenet(["--resume", str(tmp_path / name / "last.pt")]) == 0
        with open(tmp_path / name / "metrics.csv") as file:
            losses[name] = [float(row["train_loss"]) for row in csv.DictReader(file)]
    assert losses["replayed"] == pytest.approx(losses["launched"], rel=0.05)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus(tmp_path):
    """The exchange of gradients, and of beta's, is part of the graph."""
    make_sample_set(tmp_path / "data")
    program = Path(__file__).parents[2] / "tools" / "train_imagenet.py"
    argv = ["torchrun", "--standalone", "--nproc-per-node", "2", str(program), "--arch", "resnet18"]
    argv += (
        f"--data {tmp_path / 'data'} --image-size 32 --batch-size 16 --epochs 1 --lr 0.01".split()
    )
    argv += ["--final-attack-images", "0", "--cuda-graph", "--out", str(tmp_path / "run")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "validation loss" in done.stdout
