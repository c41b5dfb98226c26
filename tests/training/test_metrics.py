"""metrics.csv has one row per epoch, whatever happened to the run that wrote it."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from sprout_fast.errors import UserError
from sprout_fast.training.metrics import COLUMNS, MetricsLog


def append(out: Path, first: int, last: int, resumed_after: int = 0) -> None:
    log = MetricsLog(out, ["beta_mean"], resumed_after, 10 * resumed_after)
    for epoch in range(first, last + 1):
        log.epoch(
            dict.fromkeys(COLUMNS, 0.5) | {"epoch": epoch, "step": 10 * epoch, "beta_mean": 1}
        )
    log.close()


def epochs(out: Path) -> list[str]:
    with open(out / "metrics.csv", newline="") as file:
        return [row["epoch"] for row in csv.DictReader(file)]


def test_rows_after_the_checkpoint_are_dropped_and_none_is_lost(tmp_path: Path) -> None:
    append(tmp_path, 1, 3)
    append(tmp_path, 3, 4, resumed_after=2)  # killed after row 3, before its checkpoint
    assert epochs(tmp_path) == ["1", "2", "3", "4"]


@pytest.mark.parametrize("kept", [1, 10, 30])
def test_a_torn_last_row_is_dropped(tmp_path: Path, kept: int) -> None:
    append(tmp_path, 1, 2)
    path = tmp_path / "metrics.csv"
    content = path.read_bytes()
    path.write_bytes(content + content.splitlines(keepends=True)[-1][:kept])
    append(tmp_path, 3, 3, resumed_after=2)
    assert epochs(tmp_path) == ["1", "2", "3"]


def test_bytes_that_are_no_text_and_repeated_epochs_are_dropped(tmp_path: Path) -> None:
    append(tmp_path, 1, 2)
    path = tmp_path / "metrics.csv"
    content = path.read_bytes()
    last = content.splitlines(keepends=True)[-1]
    path.write_bytes(content + last + b"\xff\x00\xff,3\r\n")
    append(tmp_path, 3, 3, resumed_after=2)
    assert epochs(tmp_path) == ["1", "2", "3"]


def test_rows_are_appended_to_the_same_file(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    before = (tmp_path / "metrics.csv").stat().st_ino
    log.epoch(dict.fromkeys(COLUMNS, 1))
    log.close()
    assert (tmp_path / "metrics.csv").stat().st_ino == before
    assert epochs(tmp_path) == ["1"]


def test_a_deleted_folder_is_one_line(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    log = MetricsLog(out)
    shutil.rmtree(out)
    with pytest.raises(UserError, match=r"run/metrics.csv: cannot be written: No such file"):
        log.epoch(dict.fromkeys(COLUMNS, 1))
    assert not out.exists()


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    path = tmp_path / "metrics.csv"
    path.unlink()
    path.symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"metrics.csv: cannot be written: No space left on device"):
        log.epoch(dict.fromkeys(COLUMNS, 1))


def test_events_on_a_full_disk_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    log = MetricsLog(tmp_path)
    log.step(1, {"loss": 1.0})
    log._events.flush()
    (events,) = tmp_path.glob("events.*")
    events.unlink()
    events.symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"events.*: cannot be written: No space left on device"):
        for step in range(200):
            log.epoch(dict.fromkeys(COLUMNS, 1) | {"step": step})
    log.close()
    assert "Traceback" not in capsys.readouterr().err
