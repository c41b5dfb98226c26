"""sprout_fast.evaluate: measurements, protocols, audit, and resuming after an interruption."""

import copy
import dataclasses
import functools
import inspect
import json
import sys
import typing

import pytest
import torch
from helpers.masked_models import MASKED
from helpers.networks import EPS, made_images, trained
from torch import nn

import sprout_fast
from sprout_fast.attacks import ATTACKS
from sprout_fast.attacks.autoattack import is_installed
from sprout_fast.attacks.balls import BALLS
from sprout_fast.attacks.losses import LOSSES
from sprout_fast.attacks.pgd import pgd
from sprout_fast.errors import UserError
from sprout_fast.evaluation import PROTOCOLS, Subject
from sprout_fast.evaluation.audit import run_audit
from sprout_fast.evaluation.measurements import (
    AttackMeasurement,
    Batch,
    Clean,
    Diversity,
    Gradients,
    Invariance,
    Landscape,
    Measurement,
    Stability,
)
from sprout_fast.evaluation.measurements.attack import within_ball
from sprout_fast.evaluation.measurements.diversity import _shuffled
from sprout_fast.evaluation.names import NormName, ProtocolName
from sprout_fast.evaluation.protocols import Setting
from sprout_fast.evaluation.recorder import AccuracyRecord, Recorder
from sprout_fast.methods import METHODS
from sprout_fast.models import Normalized
from sprout_fast.ops import sample_mixup


class Scaled(nn.Module):
    """Multiplies the logits by a factor."""

    def __init__(self, model, factor):
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, images):
        return self.factor * self.model(images)


def audited(model, count=100, **options):
    images, labels = made_images(count, seed=5)
    options = {"protocol": "audit", "eps": EPS, "scale": 0.05} | options
    return sprout_fast.evaluate(model, images, labels, **options)


def reaudited(results, **changes):
    """Return the results with changes, audited again."""
    changed = dataclasses.replace(results, **changes)
    audit = run_audit(changed.subject, changed.records, changed.protocol)
    return dataclasses.replace(changed, audit=audit)


@pytest.fixture(scope="module")
def honest():
    return audited(trained(adversarially=True), surrogate=trained(adversarially=False))


def failed(results):
    return {check.name for check in results.audit.failed}


def test_an_adversarially_trained_model_is_not_flagged(honest):
    assert honest.audit.passed, str(honest.audit)
    assert {check.name for check in honest.audit.not_run} == {
        "smallest perturbation never wins",  # strong's
        "labels keep the true class",  # SPROUT's
    }
    assert 0.05 < honest.robust_accuracy < honest.clean_accuracy


@pytest.mark.parametrize("adversarially", [False, True])
def test_flat_logits_are_flagged(adversarially):
    assert "logits are not flat" in failed(audited(Scaled(trained(adversarially), 1e-3)))


def test_huge_logits_are_flagged():
    found = failed(audited(Scaled(trained(True), 1e4)))
    assert {"logits are not saturated", "rescaling changes nothing"} <= found


# What a failed check of `strong` has to be, for each masked model. A soft quantizer is attacked
# successfully: its gradient is steep, but right.
SIGNS = {
    "quantizer": {"gradients are nonzero", "loss follows the gradient", "black box never wins"},
    "quantizer with temperature": set(),
    "JPEG": {"gradients are nonzero", "loss follows the gradient", "black box never wins"},
    "one-hot outputs": {"gradients are nonzero", "outputs are logits"},
    "random gradients": {"gradients are deterministic", "loss follows the gradient"},
    "flipped gradients": {"loss follows the gradient", "black box never wins"},
    "random crop": {"outputs are deterministic"},
    "dropout": {"outputs are deterministic"},
    "random in 1 call of 8": {"outputs are deterministic"},
    "noise seeded by the input": {"outputs are continuous"},
    "test-time optimization": {"nothing is optimized at test time"},
    "softmax": {"outputs are logits"},
    "100 x softmax": {"outputs are logits"},
    "logits x 1e4": {"logits are not saturated"},
    "k-WTA": {"loss follows the gradient"},
    "sawtooth": {"loss follows the gradient", "black box never wins"},
    "batch norm in train mode": {"images do not interact"},
}


@functools.cache
def unmasked():
    return audited(trained(True), count=40, protocol="strong")


def test_strong_does_not_doubt_an_honest_model():
    assert not unmasked().doubtful and unmasked().excess == 0, str(unmasked().audit)
    assert "doubtful" not in str(unmasked())
    assert len(unmasked().audit.ran) >= 12
    ran, not_run = len(unmasked().audit.ran), len(unmasked().audit.not_run)
    assert f"none of the {ran} checks that were run" in str(unmasked())
    assert f"({not_run} were not run)" in str(unmasked())


@pytest.mark.parametrize("mask", MASKED)
def test_strong_doubts_its_number_for_masked_models(mask):
    results = audited(MASKED[mask](trained(True)).eval(), count=40, protocol="strong")
    assert SIGNS[mask] <= failed(results), str(results)
    if SIGNS[mask]:
        assert results.doubtful and 0 < results.excess <= results.robust_accuracy
        assert f"doubtful: may be too high by {100 * results.excess:.1f} points" in str(results)
    else:
        assert abs(results.robust_accuracy - unmasked().robust_accuracy) <= 0.05


def test_the_audit_of_a_quantizer_fails_by_its_own_attacks():
    results = audited(MASKED["quantizer"](trained(True)))
    assert {"accuracy reaches zero", "black box never wins"} <= failed(results)


def test_the_protocol_rand_is_proposed_for_random_models_and_averages_gradients():
    random = MASKED["dropout"](trained(True))
    audit = audited(random, count=40, protocol="strong").audit
    (check,) = [one for one in audit.failed if one.name == "outputs are deterministic"]
    assert "the protocol rand attacks random models" in check.reason
    results = audited(random, count=40, protocol="rand", scale=0.2)
    assert list(results.attacks) == ["APGD-CE, EOT", "APGD-DLR, EOT"]
    assert results.robust_accuracy < results.clean_accuracy
    full = {m.name: m.parameters() for m in PROTOCOLS["rand"](Setting())}
    for name, loss in (("APGD-CE, EOT", "ce"), ("APGD-DLR, EOT", "dlr")):
        options = full[name]["defaults"] | full[name]["options"]
        assert (options["steps"], options["eot_iter"], options["restarts"]) == (100, 20, 1)
        assert options["loss"] == loss


class RandomWhenAttacked(nn.Module):
    """Is random in 1 call of 8, and only where its margin is small, as at attacked images."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        logits = self.model(images)
        top = logits.detach().topk(2, dim=1).values
        near = (top[:, :1] - top[:, 1:]) < 0.2
        return logits + 0.1 * near * (torch.rand(()) < 1 / 8) * torch.randn_like(logits)


def test_randomness_at_attacked_images_only_is_seen():
    few = Stability(eps=EPS)
    assert (7 / 8) ** few.passes < 3e-4  # probability to miss it
    rows = made_images(10, seed=5)
    columns = few.measure(Subject(RandomWhenAttacked(trained(True)), "", 10), Batch(*rows, seed=0))
    assert (columns["repeated_attacked"] > 1e-3).any()
    assert (columns["repeated_attacked"] > 1e-3).sum() > (columns["repeated"] > 1e-3).sum()


class Adapting(nn.Module):
    """Changes a parameter in each forward pass, past autograd's version counter."""

    def __init__(self, model):
        super().__init__()
        self.model, self.shift = model, nn.Parameter(torch.zeros(()))

    def forward(self, images):
        self.shift.data.add_(1e-6)
        return self.model(images) + self.shift


def test_parameter_changes_and_backward_passes_are_counted():
    rows = Batch(*made_images(4), seed=0)
    columns = Stability(passes=2).measure(
        Subject(Adapting(copy.deepcopy(trained(True))), "", 10), rows
    )
    assert columns["rewritten"].all() and (columns["backward_passes"] == 0).all()
    optimizing = MASKED["test-time optimization"](trained(True))
    columns = Stability(passes=2).measure(Subject(optimizing, "", 10), rows)
    assert not columns["rewritten"].any() and (columns["backward_passes"] == 3).all()


class Detached(nn.Module):
    """Has no autograd graph from the logits to the images."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images.detach())


def test_a_model_without_gradients_is_flagged():
    frozen = Detached(copy.deepcopy(trained(True)).requires_grad_(False))
    results = audited(frozen, count=20, protocol="all", surrogate=trained(False))
    assert {"gradients are nonzero", "black box never wins"} <= failed(results)


def test_accuracy_that_does_not_depend_on_eps_is_flagged(honest):
    def with_accuracy(misclassified):
        changed = {
            name: dataclasses.replace(record, misclassified=misclassified(record))
            for name, record in honest.records.items()
            if name.startswith("audit: PGD-20")
        }
        return reaudited(honest, records=honest.records | changed)

    def check(results):
        return next(c for c in results.audit.checks if c.name == "accuracy decreases with eps")

    clean = honest.records["clean"].misclassified
    assert check(honest).status == "pass"
    assert check(with_accuracy(lambda record: clean)).status == "fail"
    # One more correctly classified image of 100 is tolerated; three are not.
    largest = honest.records["audit: PGD-20 at 2 eps"].misclassified
    for more, status in ((1, "pass"), (3, "fail")):
        fewer = largest.clone()
        fewer[largest.nonzero().flatten()[:more]] = False
        results = with_accuracy(
            lambda r, fewer=fewer: (
                fewer
                if r.name.endswith(" 4 eps")
                else (r.misclassified if not r.name.endswith(" 2 eps") else largest)
            )
        )
        assert check(results).status == status


def test_no_check_runs_on_a_model_that_is_always_wrong():
    images, labels = made_images(20)
    wrong = (trained(True)(images).argmax(1) + 1) % 10
    results = sprout_fast.evaluate(
        trained(True), images, wrong, protocol="audit", eps=EPS, scale=0.01
    )
    assert results.robust_accuracy == results.clean_accuracy == 0
    assert not results.audit.ran and "no image correctly" in results.audit.checks[0].reason


def test_the_label_mass_of_sprout_is_audited(honest):
    beta = torch.full((10,), 0.5)
    for alpha, good in ((0.01, True), (0.9, False)):
        subject = Subject(trained(True), "a SPROUT model", 10, beta=beta, alpha=alpha)
        checks = reaudited(honest, subject=subject).audit.checks
        (check,) = [c for c in checks if c.name == "labels keep the true class"]
        assert check.status == ("pass" if good else "fail")
        assert check.numbers["expected true-class mass"] == pytest.approx(
            (1 - alpha + alpha * 0.5) / (1 - alpha + alpha * 5), abs=1e-6
        )


def test_robust_accuracy_is_the_worst_case_image_by_image(honest):
    misclassified = honest.records["clean"].misclassified.clone()
    for record in honest.attacks.values():
        inside = record.column("linf", torch.inf) <= EPS * (1 + 1e-6)
        misclassified |= record.column("misclassified", 0).bool() & inside
    assert torch.equal(honest.misclassified, misclassified)
    assert honest.robust.correct == int((~misclassified).sum())
    # Attacks in larger balls find more errors, which do not count.
    larger = honest.records["audit: PGD-20 at 4 eps"]
    assert larger.accuracy.correct < honest.robust.correct
    smallest = min(
        record.accuracy.correct
        for record in honest.attacks.values()
        if record.parameters["eps"] <= EPS
    )
    assert honest.robust.correct <= smallest


def test_perturbations_are_in_the_ball_and_judged_by_the_models_prediction(honest):
    model, (images, labels) = trained(True), made_images(100, seed=5)
    for record in honest.attacks.values():
        norm, eps = record.parameters["norm"], record.parameters["eps"]
        assert (record.columns[norm] <= eps * (1 + 1e-6)).all(), record.name
        shown = torch.isin(record.rows, record.gallery)
        assert torch.equal(
            model(record.adversarial).argmax(1) != labels[record.gallery],
            record.columns["misclassified"][shown],
        )
        assert torch.allclose(
            BALLS[norm].distance(record.adversarial, images[record.gallery]),
            record.columns[norm][shown],
        )


def test_a_cascade_attacks_samples_still_correctly_classified():
    images, labels = made_images(60, seed=6)
    results = sprout_fast.evaluate(trained(True), images, labels, eps=EPS, scale=0.1)
    active = ~results.records["clean"].misclassified
    for record in results.attacks.values():
        assert torch.equal(record.rows, active.nonzero().flatten())
        active &= ~record.misclassified
        assert record.accuracy.correct == int(active.sum())
    assert torch.equal(results.misclassified, ~active)
    assert 0 < results.robust_accuracy < results.clean_accuracy


@pytest.mark.parametrize("protocol", ["paper", "strong", "audit", "rand", "all"])
def test_protocols_list_unique_measurements_with_plain_parameters(protocol):
    for setting in (Setting(), Setting(num_classes=1000, image_size=224), Setting(norm="l2")):
        measurements = PROTOCOLS[protocol](setting)
        names = [measurement.name for measurement in measurements]
        assert len(set(names)) == len(names)
        assert names[0] == "clean"
        for measurement in measurements:
            assert measurement.parameters()["name"] == measurement.name
            json.dumps(measurement.parameters())
            if isinstance(measurement, AttackMeasurement):
                assert measurement.attack in ATTACKS
    if protocol == "all":
        for part in ("paper", "strong", "audit"):
            assert {m.name for m in PROTOCOLS[part](Setting())} <= set(names)


def test_the_papers_protocol_has_the_papers_parameters():
    names = {m.name: m.parameters() for m in PROTOCOLS["paper"](Setting(image_size=224))}
    for steps in (20, 100, 200, 500):
        options = names[f"PGD-{steps} at 0.03"]["options"]
        assert (options["steps"], options["step_size"]) == (steps, 0.03 / 5)
    assert names["10x PGD-100 at 0.03"]["options"]["restarts"] == 10
    assert [names[f"{n}x PGD-20 at 0.03"]["options"]["restarts"] for n in (3, 5, 8)] == [3, 5, 8]
    assert names["C&W-l2 at 0.05"]["options"] == {"binary_searches": 10, "steps": 1000}
    for eps in ("0.005", "0.01", "0.015", "0.02"):
        assert names[f"random-target PGD-20 at {eps}"]["options"]["target"] == "random"
    assert {"rotation 10°", "brightness x 1.5", "contrast x 2", "gray", "transfer at 0.03"} <= set(
        names
    )


def test_every_gradient_attack_of_the_audit_steps_by_a_quarter_of_its_radius():
    checked = set()
    for measurement in PROTOCOLS["audit"](Setting(eps=0.1)):
        options = getattr(measurement, "options", {})
        if "step_size" in options:
            checked.add(measurement.name)
            share = 1 if measurement.name == "audit: one step" else 1 / 4
            assert options["step_size"] == pytest.approx(share * measurement.eps), measurement.name
    assert {"audit: one step", "audit: PGD-20", "audit: transfer"} < checked


@pytest.mark.parametrize("norm", BALLS)
def test_no_measurement_leaves_the_range_of_images(norm):
    """All pixels are 0 or 1, so any step away from gray would leave the range."""

    class Checked(Scaled):
        def forward(self, images):
            assert images.min() >= 0 and images.max() <= 1
            return super().forward(images)

    images, _ = made_images(20)
    images = (images > 0.5).float()
    model = Checked(trained(True), 1.0)
    subject = Subject(model, "", 10, surrogate=model)
    batch = Batch(images, subject.logits(images).argmax(1), 0)
    setting = Setting(norm=norm, eps=0.3, image_size=8, scale=0.02)
    for protocol in ("audit", "strong"):
        for measurement in PROTOCOLS[protocol](setting):
            measurement.measure(subject, batch)


def test_a_flat_margin_has_slope_zero():
    class Flat(nn.Module):
        def forward(self, images):
            return 0 * images.flatten(1)[:, :10] + torch.eye(10)[0]

    images, _ = made_images(4)
    batch = Batch(images, torch.zeros(4, dtype=torch.int64), 0)
    columns = Gradients(eps=EPS).measure(Subject(Flat(), "", 10), batch)
    assert columns["slope"].tolist() == [0] * 4
    assert columns["margin_zero"].tolist() == [1] * 4


def test_a_margin_that_overflows_has_slope_zero():
    class Overflowing(nn.Module):
        """Has a finite gradient at gray images, and infinite logits at brighter ones."""

        def forward(self, images):
            large = torch.exp(88.7 + (images - 0.5).sum((1, 2, 3)) / 2)
            return large[:, None] * torch.eye(10)[0]

    images = torch.full((2, 3, 8, 8), 0.5)
    batch = Batch(images, torch.tensor([0, 1]), 0)
    columns = Gradients(eps=EPS).measure(Subject(Overflowing(), "", 10), batch)
    assert columns["slope"].tolist() == [0, 0]
    assert columns["margin_zero"].tolist() == [0, 0]


class Stopped(Exception):
    pass


def recorded(folder, *, model=None, images=None, seed=0, batch_size=10, stop=None):
    """Return the records of three attacks on 40 images, and the batches that were measured."""
    given, labels = made_images(40, seed=7)
    measured = []

    def progress(record, done, total):
        measured.append((record.name, done))
        if (record.name, done) == stop:
            raise Stopped

    recorder = Recorder(
        Subject(model or trained(True), "", 10),
        given if images is None else images,
        labels,
        batch_size=batch_size,
        seed=seed,
        cache_dir=folder,
        progress=progress,
    )
    options = {"steps": 3, "step_size": EPS / 2}
    try:
        recorder.run(
            [
                Clean(),
                AttackMeasurement("first", "pgd", eps=EPS, options=options),
                AttackMeasurement("second", "pgd", eps=EPS, options=options, cascade=("first",)),
                AttackMeasurement("third", "square", eps=EPS, options={"queries": 20}),
            ]
        )
    except Stopped:
        assert stop is not None
    return recorder.records, measured


def test_an_interrupted_evaluation_resumes_with_the_same_results(tmp_path):
    whole, batches = recorded(None)
    assert ("third", 10) in batches and ("third", 20) in batches
    records, _ = recorded(tmp_path, stop=("third", 20))
    assert "third" not in records
    again, batches = recorded(tmp_path)
    # Complete records are reported once.
    assert ("first", 10) not in batches and ("third", 10) not in batches
    assert ("third", 30) in batches
    assert list(again) == list(whole)
    for name, record in whole.items():
        assert torch.equal(record.misclassified, again[name].misclassified)
        for column, values in record.columns.items():
            assert torch.equal(values, again[name].columns[column]), (name, column)


@pytest.mark.parametrize("change", ["seed", "model", "factor", "mean", "images", "batch_size"])
def test_cached_results_of_other_inputs_are_not_used(tmp_path, change):
    changed = {
        "seed": 1,
        "model": Scaled(trained(True), 3.0),
        "factor": Scaled(trained(True), 3.0),
        "mean": Normalized(trained(True), [0.2] * 3, [1.0] * 3),
        "images": made_images(40, seed=7)[0].flip(-1),
        "batch_size": 20,
    }[change]
    # Models that differ in a plain attribute, or in a non-persistent buffer.
    model = {
        "factor": Scaled(trained(True), 2.0),
        "mean": Normalized(trained(True), [0.0] * 3, [1.0] * 3),
    }.get(change)
    recorded(tmp_path, model=model)
    _, batches = recorded(tmp_path, model=model)
    assert [done for name, done in batches if name == "first"] == [40]
    change = "model" if model is not None else change
    _, batches = recorded(tmp_path, **{"model": model, change: changed})
    assert len([done for name, done in batches if name == "first"]) > 1
    if change != "model":  # results of another model replace the cached ones
        _, batches = recorded(tmp_path, model=model)
        assert [done for name, done in batches if name == "first"] == [40]


def test_a_cascade_is_measured_again_if_its_images_change(tmp_path):
    records, _ = recorded(tmp_path)
    (path,) = tmp_path.glob("first-*.pt")
    content = torch.load(path)
    active = (~content["columns"]["misclassified"]).nonzero().flatten()
    content["columns"]["misclassified"][active[0]] = True  # as if one more had been found
    torch.save(content, path)
    again, batches = recorded(tmp_path)
    assert len(again["second"].rows) == len(records["second"].rows) - 1
    assert all(
        len(column) == len(again["second"].rows) for column in again["second"].columns.values()
    )
    assert [done for name, done in batches if name == "third"] == [40]


def test_the_error_names_a_damaged_cache_file(tmp_path):
    model, (images, labels) = trained(True), made_images(10)
    evaluate = functools.partial(
        sprout_fast.evaluate,
        model,
        images,
        labels,
        protocol="strong",
        eps=EPS,
        scale=0.05,
        cache_dir=tmp_path,
    )
    evaluate()
    (part,) = (tmp_path / "parts").glob("clean-*.pt")
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(UserError, match=f"{part.name}: is truncated or damaged"):
        evaluate()


def test_uint8_images_are_divided_by_255():
    model, (images, labels) = trained(True), made_images(20)
    as_bytes = (images * 255).round().to(torch.uint8)
    options = {"eps": EPS, "scale": 0.05}
    first = sprout_fast.evaluate(model, as_bytes, labels, **options)
    second = sprout_fast.evaluate(model, as_bytes.float() / 255, labels, **options)
    assert torch.equal(first.misclassified, second.misclassified)


def test_a_float64_model_receives_float64_images():
    images, labels = made_images(20)
    options = {"eps": EPS, "scale": 0.05, "protocol": "all"}
    double = copy.deepcopy(trained(True)).double()
    results = sprout_fast.evaluate(double, images, labels, **options)
    assert 0 < results.robust_accuracy < results.clean_accuracy


@pytest.mark.parametrize("eps", [4 / 255, 1e-4])
def test_perturbations_that_float32_rounds_beyond_eps_count(eps):
    images = torch.linspace(0, 1 - eps, 1000).view(-1, 1, 1, 1)
    distance = BALLS["linf"].distance(images + eps, images)  # as other packages compute it
    assert (distance > eps * (1 + 1e-6)).any()
    assert within_ball(distance, eps).all()
    assert not within_ball(torch.tensor([eps + 1e-6], dtype=torch.float64), eps).any()


def test_the_model_is_restored():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(192, 10)).train()
    images, labels = made_images(20)
    before = torch.get_rng_state()
    sprout_fast.evaluate(model, images, labels, protocol="all", eps=EPS, scale=0.01)
    assert model.training and model[1].training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.equal(before, torch.get_rng_state())


def test_names_are_those_of_the_registries():
    assert set(typing.get_args(ProtocolName)) == set(PROTOCOLS)
    assert set(typing.get_args(NormName)) == set(BALLS)


def test_a_surrogate_is_added_to_a_subject():
    images, labels = made_images(6)
    subject = Subject(trained(True), "a model", 10)
    options = {"protocol": "audit", "eps": EPS, "scale": 0.01, "surrogate": trained(False)}
    results = sprout_fast.evaluate(subject, images, labels, **options)
    assert "audit: transfer" in results.attacks
    assert subject.surrogate is None  # the caller's own object is not modified


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "strnog"}, "protocol: got 'strnog'.*did you mean strong"),
        ({"norm": "l3"}, "norm.*l3.*linf, l2, l1"),
        ({"eps": 0}, "eps 0: expected a positive number"),
        ({"eps": float("nan")}, "eps nan: expected"),
        ({"scale": 2}, "scale 2: expected a number"),
        ({"batch_size": 0}, "batch_size 0: expected an int >= 1"),
        ({"labels": torch.full((4,), 10)}, "labels: got values from 10 to 10, expected 0 to 9"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, r"images: got \[4, 3, 8, 8\]"),
        ({"labels": torch.zeros(4)}, "labels: got torch.float32, expected int64"),
        ({"images": torch.full((4, 3, 8, 8), 2.0)}, r"values from 2 to 2, expected \[0,1\]"),
        ({"images": torch.full((4, 3, 8, 8), float("nan"))}, "values from nan"),
        ({"images": torch.zeros(4, 3, 8, 8, dtype=torch.int32)}, "images: got torch.int32"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(192, 1))}, r"outputs \[1, 1\]"),
    ],
)
def test_errors_name_the_wrong_argument(change, message):
    images, labels = made_images(4)
    arguments = {"model": trained(True), "images": images, "labels": labels} | change
    with pytest.raises(UserError, match=message):
        sprout_fast.evaluate(**arguments)


def test_the_official_autoattack_must_be_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "autoattack", None)
    monkeypatch.setattr("sprout_fast.attacks.autoattack.is_installed", lambda: False)
    images, labels = made_images(4)
    with pytest.raises(UserError, match="official AutoAttack package is not installed"):
        sprout_fast.evaluate(trained(True), images, labels, protocol="autoattack")


@pytest.mark.skipif(not is_installed(), reason="needs pyautoattack")
def test_the_official_autoattack_is_named_by_its_version_and_not_scaled():
    for version, name in (("standard", "AutoAttack"), ("plus", "AutoAttack plus")):
        measured = PROTOCOLS["autoattack"](Setting(autoattack_version=version))
        assert [one.name for one in measured][-1] == name
    with pytest.raises(UserError, match="scale.*0.5: protocol autoattack supports only 1"):
        PROTOCOLS["autoattack"](Setting(scale=0.5))


@pytest.mark.long
@pytest.mark.skipif(not is_installed(), reason="needs pyautoattack")
def test_the_official_autoattack_agrees_with_strong():
    model, (images, labels) = trained(True), made_images(30, seed=8)
    theirs = sprout_fast.evaluate(model, images, labels, protocol="autoattack", eps=EPS)
    ours = sprout_fast.evaluate(model, images, labels, protocol="strong", eps=EPS)
    assert theirs.robust.correct == ours.robust.correct


def batch(count=20):
    return Batch(*made_images(count, seed=9), seed=3)


def test_transformations():
    seen = []

    class Watched(nn.Module):
        def forward(self, images):
            seen.append(images)
            return images.flatten(1)[:, :10]

    subject, given = Subject(Watched(), "watched", 10), batch()
    for transformation, amount in (("rotation", 90), ("brightness", 1.5), ("gray", 1)):
        Invariance("x", transformation, amount).measure(subject, given)
    rotated, brighter, gray = seen
    assert torch.allclose(rotated, given.images.rot90(1, (2, 3)), atol=1e-5)
    assert torch.allclose(brighter, (1.5 * given.images).clamp(0, 1))
    assert torch.allclose(gray, given.images.mean(1, keepdim=True).expand(-1, 3, -1, -1))
    Invariance("x", "contrast", 2).measure(subject, given)
    mean = (seen[-1] - 2 * given.images)[:, 0, 0, 0]  # 2 x - mean, unless clipped
    inside = (seen[-1] > 0) & (seen[-1] < 1)
    expected = 2 * given.images + mean[:, None, None, None]
    rows = ((seen[-1] > 0) & (seen[-1] < 1))[:, 0, 0, 0]
    assert rows.any()
    assert torch.allclose(seen[-1][rows][inside[rows]], expected[rows][inside[rows]], atol=1e-5)


def test_unknown_names_are_errors_at_construction():
    with pytest.raises(UserError, match="got 'rotatoin', .*did you mean rotation"):
        Invariance("x", "rotatoin", 10)
    with pytest.raises(UserError, match="attack.*pdg.*did you mean pgd"):
        AttackMeasurement("x", "pdg")
    with pytest.raises(UserError, match="stpes.*did you mean steps"):
        AttackMeasurement("x", "pgd", options={"stpes": 3})
    with pytest.raises(UserError, match="norm.*l3.*linf, l2, l1"):
        AttackMeasurement("x", "pgd", norm="l3")


def test_gradients_against_autograd():
    model = trained(True)
    given = batch(5)
    columns = Gradients().measure(Subject(model, "", 10), given)
    double = [p.double() for p in model.parameters()]
    assert len(double) > 0
    images = given.images.requires_grad_()
    nn.functional.cross_entropy(model(images), given.labels, reduction="sum").backward()
    assert torch.allclose(columns["ce_norm"], images.grad.flatten(1).norm(dim=1), rtol=1e-5)
    assert (columns["ce_zero"] < 0.5).all()
    dead = Gradients().measure(Subject(MASKED["quantizer"](model), "", 10), batch(5))
    assert (dead["ce_zero"] == 1).all() and (dead["margin_zero"] == 1).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_slope_and_rise_of_a_linear_network(norm):
    """The margin changes at the gradient's rate; by a step of a quarter of eps, by its quarter."""
    torch.manual_seed(0)
    model, eps = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10)), 0.01
    images = torch.rand(5, 3, 8, 8, dtype=torch.float64) / 2 + 0.25
    given = Batch(images, torch.arange(5), 0)
    columns = Gradients(norm=norm, eps=eps).measure(Subject(model.double(), "", 10), given)
    one = torch.ones(5, dtype=torch.float64)
    torch.testing.assert_close(columns["slope"], one, rtol=5e-3, atol=0)
    points = images.clone().requires_grad_()
    LOSSES["margin"](model(points), given.labels).sum().backward()
    gradient = points.grad.flatten(1)
    if norm == "linf":
        rise = eps / 4 * gradient.abs().sum(1)
    else:  # l1's direction is l2's, as long in the ball's place
        rise = eps / 4 * gradient.norm(dim=1) * (192**-0.5 if norm == "l1" else 1)
    torch.testing.assert_close(columns["rise"], rise, rtol=5e-3, atol=0)


def test_landscape_starts_at_the_loss_and_increases_along_the_gradient():
    model, given = trained(False), batch(6)
    loss = Landscape(points=5).measure(Subject(model, "", 10), given)["loss"]
    assert loss.shape == (6, 5, 5)
    with torch.no_grad():
        here = nn.functional.cross_entropy(model(given.images), given.labels, reduction="none")
    assert torch.allclose(loss[:, 0, 0], here)
    along_gradient, at_random = loss[:, -1, 0].mean(), loss[:, 0, -1].mean()
    assert along_gradient > at_random


def test_diversity_of_identical_modules_is_one():
    subject = Subject(trained(True), "", 10)
    columns = Diversity(sigma=0.0, alpha=0.0).measure(subject, batch())
    # Without noise, and with labels drawn around y only, both equal the plain gradient.
    assert torch.allclose(columns["dirichlet_ga"], torch.ones(20), atol=1e-4)
    of_method = inspect.signature(METHODS["sprout"]).parameters
    for name in ("sigma", "mixup_alpha", "alpha"):
        assert getattr(Diversity(), name) == of_method[name].default, name
    columns = Diversity().measure(subject, batch())
    assert set(columns) == {"dirichlet_mixup", "dirichlet_ga", "mixup_ga"}
    assert all((column.abs() <= 1 + 1e-6).all() for column in columns.values())


def test_mixup_partners_do_not_follow_the_order_of_the_classes():
    """With classes in rotation, an image's partner has the same class only by chance."""
    generator, labels, shares = torch.Generator().manual_seed(3), torch.arange(100) % 10, []
    for offset in range(20):
        partner, _ = sample_mixup(100, torch.tensor([5, offset, 0]), per_sample=True)
        assert (labels[partner] == labels).float().mean() in (0, 1)
        partner = _shuffled(partner, generator)
        assert partner.unique().numel() == 100 and (partner != torch.arange(100)).all()
        shares.append((labels[partner] == labels).float().mean().item())
    assert min(shares) > 0 and max(shares) < 0.3  # 9 of 99 on average
    assert sum(shares) / 20 == pytest.approx(1 / 11, abs=0.03)


def test_transferred_images_are_made_on_the_surrogate():
    images, labels = made_images(30, seed=4)
    subject = Subject(trained(True), "", 10, surrogate=trained(False))
    options = {"attack": "pgd", "steps": 3, "random_start": False}
    given = Batch(images, labels, seed=0)
    measured = AttackMeasurement("t", "transfer", eps=EPS, options=options).measure(subject, given)
    made = {"eps": EPS, "steps": 3, "random_start": False, "early_stop": False}
    theirs, own = (pgd(model, images, labels, **made) for model in (trained(False), trained(True)))
    assert torch.equal(measured["adversarial"], theirs) and not torch.equal(theirs, own)
    wrong = trained(True)(theirs).argmax(1) != labels
    assert torch.equal(measured["misclassified"], wrong) and wrong.any()


def test_an_unavailable_measurement_says_why():
    images, labels = made_images(6)
    subject = Subject(trained(True), "", 10)
    recorder = Recorder(subject, images, labels, batch_size=4)
    recorder.run([Clean(), AttackMeasurement("t", "transfer")])
    assert "need a surrogate model" in recorder.records["t"].unavailable
    assert len(recorder.records["t"].rows) == 0
    assert not isinstance(recorder.records["t"], AccuracyRecord)


def test_different_measurements_with_the_same_name_are_an_error():
    images, labels = made_images(6)
    recorder = Recorder(Subject(trained(True), "", 10), images, labels, batch_size=4)
    same = AttackMeasurement("noise", "noise", options={"draws": 1})
    recorder.run([Clean(), same, same])
    with pytest.raises(ValueError, match="two different measurements are called 'noise'"):
        recorder.run([dataclasses.replace(same, eps=0.1)])


def test_a_new_kind_of_measurement_is_one_class():
    @dataclasses.dataclass(frozen=True)
    class Brightness(Measurement):
        name: str = "brightness of the images"

        def measure(self, subject, batch):
            return {"brightness": batch.images.mean((1, 2, 3))}

    images, labels = made_images(6)
    recorder = Recorder(Subject(trained(True), "", 10), images, labels, batch_size=4)
    recorder.run([Brightness()])
    found = recorder.records["brightness of the images"].column("brightness")
    assert torch.allclose(found, images.mean((1, 2, 3)).double())


def test_a_measurement_of_a_few_images_and_each_batch_spread_over_the_classes():
    """Data sets list one class after the other; results are in the order of the images."""
    batches = []

    @dataclasses.dataclass(frozen=True)
    class First(Measurement):
        name: str
        limit: int | None

        def measure(self, subject, batch):
            batches.append(batch.labels.tolist())
            return {"label": batch.labels, "mean": batch.images.mean((1, 2, 3))}

    images, _ = made_images(20)
    labels = torch.arange(5).repeat_interleave(4)
    recorder = Recorder(Subject(trained(True), "", 10), images, labels, batch_size=5)
    recorder.run([First("all", None), First("some", 10)])
    assert all(sorted(batch) == [0, 1, 2, 3, 4] for batch in batches) and len(batches) == 6
    for name, count in (("all", 20), ("some", 10)):
        record = recorder.records[name]
        assert len(record.rows) == count and record.rows.tolist() == sorted(record.rows.tolist())
        assert torch.equal(record.columns["label"], labels[record.rows])
        assert torch.allclose(record.columns["mean"], images[record.rows].mean((1, 2, 3)))


def test_results_as_text_and_as_json(honest):
    text = str(honest)
    assert text.startswith("clean ") and "robust " in text and "signs of gradient masking" in text
    everything = json.loads(json.dumps(honest.to_dict(), allow_nan=False))
    assert everything["verdict"]["robust_accuracy"] == honest.robust_accuracy
    assert everything["per_image"]["misclassified"] == honest.misclassified.tolist()
    assert {m["name"] for m in everything["measurements"]} == set(honest.records)
