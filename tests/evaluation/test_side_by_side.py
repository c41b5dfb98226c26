"""Comparison of evaluations and training runs by their folders."""

import json
import re

import pytest
from helpers.networks import EPS, made_images, trained

import sprout_fast
from sprout_fast.errors import UserError
from sprout_fast.evaluation import write_comparison
from sprout_fast.evaluation.command import main
from sprout_fast.training.metrics import COLUMNS, MetricsLog


def write_run(folder, accuracies):
    folder.mkdir()
    log = MetricsLog(folder, ["true_class_mass"])
    for epoch, accuracy in enumerate(accuracies, 1):
        values = dict.fromkeys(COLUMNS, 1.0) | {"epoch": epoch, "step": 10 * epoch}
        log.epoch(values | {"val_top1": accuracy, "true_class_mass": 0.9})
    log.close()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return an evaluated training run, and an evaluation with other attacks."""
    root = tmp_path_factory.mktemp("compared")
    write_run(root / "run", [0.25, 0.75, 0.5])
    images, labels = made_images(40, seed=5)
    options = {"eps": EPS, "scale": 0.05}
    for name, adversarially, protocol in (("run", True, "all"), ("other", False, "audit")):
        folder = root / name / ("evaluation" if name == "run" else "")
        model = trained(adversarially)
        results = sprout_fast.evaluate(model, images, labels, protocol=protocol, **options)
        results.save(folder)
    return root / "run", root / "other"


def row(page, name):
    """Return the texts of the cells in the row called ``name`` of a page's last such table."""
    (found,) = re.findall(rf'<th scope="row">{re.escape(name)}</th>(.*?)</tr>', page, re.DOTALL)
    cells = re.findall(r"<td.*?>(.*?)</td>", found, re.DOTALL)
    return [re.sub(r"<.*?>", " ", cell).replace("&nbsp;", " ").split() for cell in cells]


def test_evaluations_and_runs_stand_side_by_side(folders, tmp_path):
    page = write_comparison(folders, tmp_path / "new").read_text()
    contents = [
        json.loads(path.read_text())
        for path in (folders[0] / "evaluation" / "results.json", folders[1] / "results.json")
    ]
    for folder, content in zip(folders, contents, strict=True):
        cells = row(page, folder.name)
        for cell, name in zip(cells, ("clean_accuracy", "robust_accuracy"), strict=False):
            assert cell[0] == f"{100 * content['verdict'][name]:.1f}"
    by_name = [{one["name"]: one for one in content["measurements"]} for content in contents]
    name = "audit: PGD-20"
    for cell, measured in zip(row(page, name)[:2], by_name, strict=True):
        assert cell[0] == f"{100 * measured[name]['accuracy']:.1f}"
    assert row(page, "APGD-CE")[1] == ["–"]  # which the protocol audit calls by another name
    assert row(page, "val_top1") == [["50.0", "%"], ["–"]]
    assert row(page, "val_top1, best epoch") == [["75.0", "%"], ["–"]]
    assert "protocol: all, audit" in page  # is not comparable
    titles = re.findall(r"<h3>(.*?)</h3>", page)
    assert "Accuracy under PGD over eps" in titles and "val_top1 per epoch" in titles
    assert "true_class_mass per epoch" in titles and "lr per epoch" not in titles
    assert "25 at 1 to 50 at 3" in page  # the curve in words


def test_equal_settings_are_not_called_different(folders, tmp_path):
    page = write_comparison([folders[1], folders[1]], tmp_path).read_text()
    assert "not directly comparable" not in page


def test_runs_without_an_evaluation(tmp_path):
    write_run(tmp_path / "a", [0.1])
    write_run(tmp_path / "b", [0.2, 0.3])
    page = write_comparison([tmp_path / "a", tmp_path / "b"], tmp_path).read_text()
    assert "Verdicts" not in page
    assert row(page, "val_top1") == [["10.0", "%"], ["30.0", "%"]]


def test_the_command_line(folders, tmp_path, capsys):
    arguments = ["--compare", *map(str, folders), "--out", str(tmp_path / "page")]
    assert main(arguments) == 0
    assert (tmp_path / "page" / "comparison.html").is_file()
    assert "comparison.html" in capsys.readouterr().out
    assert main(["--compare", str(folders[0])]) == 2
    assert "--compare 1 folder: expected at least 2" in capsys.readouterr().err
    assert main(["--compare", str(folders[0]), str(tmp_path)]) == 2
    assert "has neither results.json nor metrics.csv" in capsys.readouterr().err


def test_damaged_results_are_named(folders, tmp_path):
    (tmp_path / "results.json").write_text('{"verdict": {}}')
    with pytest.raises(UserError, match="results.json: is not an evaluation's results"):
        write_comparison([folders[1], tmp_path], tmp_path)


def test_corruptions_are_compared(folders, tmp_path):
    content = json.loads((folders[1] / "results.json").read_text())
    for name, accuracy in (("a", 0.5), ("b", 0.25)):
        by_severity = {str(severity): accuracy for severity in range(1, 6)}
        summary = {"mean_accuracy": accuracy, "accuracy": {"snow": by_severity}}
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(
            json.dumps(content | {"corruptions": summary})
        )
    page = write_comparison([tmp_path / "a", tmp_path / "b"], tmp_path).read_text()
    assert row(page, "snow") == [["50.0", "%"], ["25.0", "%"]]
    assert "Mean accuracy under corruptions" in page
