"""The programs of docs/examples: short, runnable, and they train."""

import runpy
from pathlib import Path

import pytest
import torch
from helpers.paths import ROOT

EXAMPLES = ROOT / "docs" / "examples"


@pytest.fixture(autouse=True)
def in_a_temporary_folder(tmp_path, monkeypatch):
    """Run in an empty folder, and leave the global random state as it was."""
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        yield


def test_each_example_is_documented_tested_and_under_60_lines():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    page, tests = (ROOT / "docs" / "examples.md").read_text(), globals()
    for name in names:
        assert f"examples/{name}.py" in page, name
        assert f"test_{name}" in tests, name
        lines = len((EXAMPLES / f"{name}.py").read_text().splitlines())
        assert lines < 60, (name, lines)


def test_plain_loop():
    accuracy = runpy.run_path(str(EXAMPLES / "plain_loop.py"))["main"]()
    assert accuracy > 0.9  # chance: 0.25


def test_timm_train():
    pytest.importorskip("timm")
    example = runpy.run_path(str(EXAMPLES / "timm_train.py"))
    made = []
    main = example["main"]
    loss_class = main.__globals__["SproutLoss"]
    main.__globals__["SproutLoss"] = lambda *args: made.append(loss_class(*args)) or made[-1]
    model = main()
    (loss_fn,) = made
    assert not torch.equal(loss_fn.beta, loss_class(loss_fn.num_classes).beta)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_lightning_module():
    pytest.importorskip("lightning")
    example = runpy.run_path(str(EXAMPLES / "lightning_module.py"))
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    module = example["main"](**quiet)
    assert module.trainer.callback_metrics["val_acc"] > 0.5  # chance: 0.25
    saved = module.state_dict()
    assert torch.equal(saved["loss_fn.beta"], module.loss_fn.beta)
    steps = 2 * 8  # epochs, batches: one draw of the mixer per training step, none in validation
    assert saved["mixer.rng.state"].tolist() == [0, steps]


def test_evaluate_torchvision_model(capsys):
    pytest.importorskip("torchvision")
    pytest.importorskip("matplotlib")
    scope = runpy.run_path(str(EXAMPLES / "evaluate_torchvision_model.py"))
    assert scope["results"].clean_accuracy == 1
    assert scope["audited"].audit.ran
    folder = Path(scope["folder"])
    assert (folder / "results.json").is_file() and (folder / "report.html").is_file()
    assert "APGD-T" in capsys.readouterr().out
