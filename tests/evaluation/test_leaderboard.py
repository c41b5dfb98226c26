"""Entries of RobustBench's leaderboard."""

import dataclasses
import json

import pytest
from helpers.networks import EPS, made_images, trained

import sprout_fast
from sprout_fast.errors import UserError
from sprout_fast.evaluation.command import main
from sprout_fast.evaluation.leaderboard import robustbench_entry

# Of every file in RobustBench's model_info.
FIELDS = {
    "link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue",
    "architecture", "eps", "clean_acc", "reported",
}  # fmt: skip


@pytest.fixture(scope="module")
def results():
    images, labels = made_images(20, seed=5)
    found = sprout_fast.evaluate(trained(True), images, labels, eps=8 / 255, scale=0.02)
    return dataclasses.replace(found, scale=1.0)  # as if with the whole budgets


def test_an_entry_has_the_leaderboards_fields(results, tmp_path, capsys):
    results.save(tmp_path)
    assert main(["--robustbench", str(tmp_path)]) == 0
    assert "robustbench.json" in capsys.readouterr().out
    entry = json.loads((tmp_path / "robustbench.json").read_text())
    assert set(entry) >= FIELDS | {"autoattack_acc"}
    assert (entry["dataset"], entry["eps"]) == ("cifar10", "8/255")
    assert entry["clean_acc"] == f"{100 * results.clean_accuracy:.2f}"
    assert entry["autoattack_acc"] == f"{100 * results.robust_accuracy:.2f}"
    assert entry["footnote"] == "On 20 images."


def test_corruptions_have_a_leaderboard_of_their_own(results):
    corruptions = {"mean_accuracy": 0.5, "mce": 0.7, "missing": []}
    content = results.to_dict() | {"corruptions": corruptions}
    content["parameters"]["num_classes"] = 1000
    entry = robustbench_entry(content)
    assert (entry["dataset"], entry["eps"]) == ("imagenet", None)
    assert (entry["corruptions_acc"], entry["corruptions_mce"]) == ("50.00", "70.00")
    assert "autoattack_acc" not in entry
    corruptions["missing"] = ["fog"]
    with pytest.raises(UserError, match="the evaluation lacks fog"):
        robustbench_entry(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 0.5}, "is a trial run"),
        ({"norm": "l1"}, "norm l1: expected linf or l2"),
        ({"eps": EPS}, "lacks apgd_ce, apgd_t, fab_t, square"),
    ],
)
def test_weaker_evaluations_are_refused(results, change, message):
    with pytest.raises(UserError, match=message):
        robustbench_entry(dataclasses.replace(results, **change).to_dict())


def test_other_numbers_of_classes_are_refused(results, tmp_path, capsys):
    content = results.to_dict()
    content["parameters"]["num_classes"] = 7
    with pytest.raises(UserError, match="7 classes: expected 10, 100, 1000"):
        robustbench_entry(content)
    assert main(["--robustbench", str(tmp_path)]) == 2
    assert "has no results.json" in capsys.readouterr().err
