"""tools/run_study.py: trains, attacks, resumes, and writes its page, on real images if at hand."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import run_study
import torch
from helpers.image_files import encode, noise_image, write_tar
from study import chain, page, stages
from study.stages import Size, smoothing_at

from sprout_fast.errors import UserError

TINY = Size("cifar_resnet8", 1, 1, 1, 20, 20, 10, 0.02, rows=("natural", "sprout_code", "ls"))
MARKERS = "".join(
    f"<!-- make study: {name} -->\nold\n<!-- end of make study: {name} -->\n"
    for name in ("resnet8_1 accuracy", "resnet8_1 labels", "table 2", "table 7", "table 9")
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    members = {
        f"{split}/{name}/{number}.png": encode(noise_image(9 * number + place, (32, 32)))
        for split, count in (("train", 32), ("test", 4))
        for place, name in enumerate(("airplane", "bird", "cat", "deer"))
        for number in range(count)
    }
    return write_tar(tmp_path_factory.mktemp("data") / "cifar.tar", members)


def test_the_chain_resumes_and_then_only_prints(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "SIZES", {0.0: TINY})
    report = tmp_path / "results.md"
    report.write_text(f"before\n{MARKERS}after\n")
    argv = ["--data", str(data), "--out", str(tmp_path / "study"), "--page", str(report)]
    real = chain.Chain._evaluate

    def interrupted(self, stage):
        if stage.name == "ls":
            raise KeyboardInterrupt
        return real(self, stage)

    monkeypatch.setattr(chain.Chain, "_evaluate", interrupted)
    assert run_study.main(argv) == 130
    weights = {path: path.stat().st_mtime_ns for path in tmp_path.glob("study/*/last.pt")}
    assert len(weights) == 3
    done = {path.parent.name for path in tmp_path.glob("study/*/row.json")}
    assert done == {"natural", "sprout_code"} and not (tmp_path / "study/study.json").exists()

    monkeypatch.setattr(chain.Chain, "_evaluate", real)
    assert run_study.main([*argv[:4], "--rows", "natural", "sprout_code"]) == 0
    study = json.loads((tmp_path / "study/study.json").read_text())
    assert list(study["rows"]) == ["natural", "sprout_code"]
    assert run_study.main(argv) == 0
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
    written = report.read_text()
    assert "old" not in written and written.startswith("before") and written.endswith("after\n")
    assert (
        len(re.findall(r"^\| natural ", written, re.MULTILINE)) == 3
    )  # one in the paper's Table 2
    for name in ("accuracy", "mass", "landscape"):
        figure = tmp_path / f"results_resnet8_1_{name}.png"
        assert figure.read_bytes().startswith(b"\x89PNG")

    row = json.loads((tmp_path / "study/study.json").read_text())["rows"]["ls"]
    assert row["accuracy"].keys() == set(page.COLUMNS)
    assert all(counts["total"] == 16 for counts in row["accuracy"].values())
    capsys.readouterr()
    assert run_study.main(argv) == 0
    printed = capsys.readouterr().out
    assert "training" not in printed and "evaluating" not in printed
    assert "label smoothing at its mass" in printed


def test_the_page_is_what_its_numbers_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = Path(__file__).parents[2] / "docs"
    for name in ("results.md", "results.json"):
        shutil.copy(docs / name, tmp_path)
    written = {name: (tmp_path / name).read_text() for name in ("results.md", "results.json")}
    for study in json.loads(written["results.json"]).values():
        page.update(tmp_path / "results.md", study)
    assert {name: (tmp_path / name).read_text() for name in written} == written
    monkeypatch.setattr(sys, "argv", ["page", str(tmp_path / "results.md")])
    page.main()
    assert (tmp_path / "results.md").read_text() == written["results.md"]
    assert {path.name for path in tmp_path.glob("*.png")} == {
        path.name for path in docs.glob("results_*.png")
    }


def a_study(rows: dict[str, dict], seed: int = 0) -> dict:
    size = {"arch": "cifar_resnet8", "epochs": 1, "rows": ["natural", "sprout_code", "ls"]}
    return {"size": size, "seed": seed, "rows": rows}


def test_a_page_takes_rows_one_by_one_whole_or_not(tmp_path: Path) -> None:
    """Rows from several folders, of which some were not evaluated to the end."""
    report = tmp_path / "results.md"
    report.write_text(MARKERS)
    counts = {"correct": 3, "total": 8}
    partial = {"title": "code", "epochs": 1, "accuracy": {"clean": counts}}
    partial["labels"] = [{"epoch": 1, "mass": 0.5, "beta": 1.0}]
    whole = partial | {
        "title": "natural",
        "labels": [],
        "audit": {"failed": [], "ran": 7},
        "logits": {"mean_margin": 1.0, "mean_confidence": 0.5},
        "landscape": [[0.0, 0.12345678], [0.0, 2.0]],
        "snapshots": [{"epoch": 1, "clean": counts, "PGD-20": counts}],
    }
    page.update(report, a_study({"sprout_code": partial}))
    page.update(report, a_study({"natural": whole}))
    stored = json.loads((tmp_path / "results.json").read_text())["resnet8_1"]
    assert list(stored["rows"]) == ["natural", "sprout_code"]
    assert stored["rows"]["natural"]["landscape"] == [[0.0, 0.1235], [0.0, 2.0]]
    text = report.read_text()
    assert "| natural | 1 |  | 1.00 | 0.50 | none (of 7) |" in text
    assert "| code | 1 | 0.50 to 0.50 |  |  |  |" in text
    larger = a_study({}) | {"size": a_study({})["size"] | {"test_images": 2000}}
    for other in (a_study({}, seed=1), larger):
        with pytest.raises(UserError, match="results.json: has (seed|size) .* of resnet8_1, got"):
            page.update(report, other)
    assert report.read_text() == text


def test_label_smoothing_leaves_sprouts_last_mass(tmp_path: Path) -> None:
    mass = 0.31
    alpha = smoothing_at(mass, num_classes=10)
    assert (1 - alpha) + alpha / 10 == pytest.approx(mass)


def test_another_seed_in_the_same_folder_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        stages, "SIZES", {0.0: Size("cifar_resnet8", 1, 1, 1, 8, 8, 8, 0.02, ("natural",))}
    )
    argv = ["--data", str(data), "--out", str(tmp_path / "study")]
    assert run_study.main(argv) == 0
    assert run_study.main([*argv, "--seed", "1"]) == 2
    assert "natural: trained with seed 0, this study wants 1" in capsys.readouterr().err


def test_a_page_without_markers_is_refused_before_the_training(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = tmp_path / "other.md"
    argv = ["--data", str(data), "--out", str(tmp_path / "study"), "--page", str(other)]
    for content, message in (
        (None, "cannot be read (No such file"),
        ("text", "has no line <!-- make study: resnet20_30 accuracy -->"),
    ):
        if content is not None:
            other.write_text(content)
        assert run_study.main(argv) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def test_scale_1_has_the_papers_network() -> None:
    size = stages.size_of(1)
    assert (size.arch, size.epochs) == ("cifar_vgg16", 200)
    assert [stage.name for stage in stages.stages(size)] == [*stages.ROWS, "trades"]
    assert run_study.main(["--data", "x", "--scale", "0"]) == 2
    assert run_study.main(["--data", "x", "--rows", "nothing"]) == 2


def test_a_training_resumes_compiled_or_not(data: Path, tmp_path: Path) -> None:
    device = torch.device("cpu")
    plain, compiled = (chain.Chain(tmp_path, TINY, data, device, compiled=c) for c in (False, True))
    (stage, *_) = stages.stages(TINY)
    assert (plain._config(stage).compile, compiled._config(stage).compile) == (None, "default")
    compiled._check_same(stage, compiled._config(stage), plain._config(stage).stored())
    plain._check_same(stage, plain._config(stage), compiled._config(stage).stored())
