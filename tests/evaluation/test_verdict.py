"""The verdict is the worst case over the attacks, image by image, counted from their records."""

from __future__ import annotations

import json

import torch
from helpers.networks import EPS, made_images, trained
from helpers.records import EPS as RADIUS
from helpers.records import record
from torch import nn

import sprout_fast
from sprout_fast.evaluation import Results, Subject
from sprout_fast.evaluation.accuracy import Accuracy
from sprout_fast.evaluation.audit import Audit
from sprout_fast.evaluation.measurements import AttackMeasurement, Clean
from sprout_fast.evaluation.recorder import AccuracyRecord, Recorder

TOTAL = 60


def results(*records) -> Results:
    return Results(
        Subject(nn.Identity(), "none", 10),
        torch.zeros(TOTAL, 3, 2, 2),
        torch.zeros(TOTAL, dtype=torch.int64),
        protocol="strong",
        norm="linf",
        eps=RADIUS,
        seed=0,
        batch_size=10,
        scale=1.0,
        records={one.name: one for one in records},
        audit=Audit([]),
    )


def test_it_is_the_union_over_attacks_and_not_the_strongest_one() -> None:
    clean = record("clean", range(4), TOTAL)
    first, second = (record(n, w, TOTAL) for n, w in (("a", range(4, 30)), ("b", range(20, 38))))
    found = results(clean, first, second)
    assert found.robust == Accuracy(TOTAL - 38, TOTAL, "robust")
    assert found.robust.correct < min(r.accuracy.correct for r in (first, second))
    assert found.misclassified.nonzero().flatten().tolist() == list(range(38))
    verdict = found.to_dict()["verdict"]
    assert verdict["robust_accuracy"] == 22 / 60
    assert verdict["robust_interval_95"] == list(Accuracy(22, 60).interval)
    assert verdict["clean_accuracy"] == 56 / 60
    assert f"robust {Accuracy(22, 60).range}" in str(found)


def test_only_successes_within_the_ball_count() -> None:
    clean = record("clean", (), TOTAL)
    beyond = record("beyond", range(10), TOTAL, distance=1.01 * RADIUS, eps=2 * RADIUS)
    inside = record("inside", range(10, 15), TOTAL, distance=RADIUS, eps=2 * RADIUS)
    assert results(clean, beyond).robust.correct == TOTAL
    assert results(clean, beyond, inside).robust.correct == TOTAL - 5


def test_a_cascade_counts_each_image_once() -> None:
    clean = record("clean", range(4), TOTAL)
    first = record("a", range(4, 20), TOTAL, rows=range(4, TOTAL), before=range(4))
    second = record(
        "b", range(20, 25), TOTAL, rows=range(20, TOTAL), cascade=("a",), before=range(20)
    )
    assert first.accuracy == Accuracy(40, TOTAL, "a")
    assert second.accuracy == Accuracy(35, TOTAL, "b")
    assert results(clean, first, second).robust.correct == 35


def test_every_accuracy_is_over_all_images() -> None:
    model, (images, labels) = trained(True), made_images(TOTAL, seed=6)
    labels[:6] = (labels[:6] + 1) % 10  # misclassified without an attack
    recorder = Recorder(Subject(model, "", 10), images, labels, batch_size=16)
    options = {"steps": 5, "step_size": EPS / 2}
    recorder.run(
        [
            Clean(),
            AttackMeasurement("first", "pgd", eps=EPS, options=options),
            AttackMeasurement("second", "pgd", eps=2 * EPS, options=options, cascade=("first",)),
            AttackMeasurement("few", "noise", eps=EPS, options={"draws": 1}),
        ]
    )
    for one in recorder.records.values():
        assert isinstance(one, AccuracyRecord)
        # From the images that were measured: those left out were misclassified before.
        right = int((~one.columns["misclassified"]).sum())
        assert one.accuracy == Accuracy(right, TOTAL, one.name)
    sizes = [len(recorder.records[name].rows) for name in ("second", "first", "clean")]
    assert sizes[0] < sizes[1] < sizes[2] == TOTAL


def test_the_report_in_json_has_each_accuracys_own_interval() -> None:
    model, (images, labels) = trained(True), made_images(40, seed=8)
    found = sprout_fast.evaluate(model, images, labels, eps=EPS, scale=0.05)
    content = json.loads(json.dumps(found.to_dict()))
    assert found.robust.correct < found.clean.correct
    assert content["verdict"]["robust_interval_95"] == list(found.robust.interval)
    stored = {one["name"]: one for one in content["measurements"]}
    for name, one in found.attacks.items():
        assert stored[name]["accuracy"] == one.accuracy.top1
        assert stored[name]["interval_95"] == list(one.accuracy.interval)
    outcomes = content["per_image"]["misclassified_under"]
    union = torch.tensor([outcomes[name] for name in ("clean", *found.attacks)]).any(0)
    assert content["per_image"]["misclassified"] == union.tolist()
    assert content["verdict"]["robust_accuracy"] == 1 - float(union.double().mean())
