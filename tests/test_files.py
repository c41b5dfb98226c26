"""atomic_write: the old file or the new one, never a part; folder_lock: one process at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sprout_fast import files
from sprout_fast.errors import UserError
from sprout_fast.files import atomic_write, folder_lock


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_new_file_replaces_the_old_one(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path  # the same file system, else the rename copies
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_keeps_the_old_file(tmp_path, error):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(error), atomic_write(str(path)) as temporary:
        temporary.write_text("ne")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_nothing_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a.json"):
        pass
    assert names(tmp_path) == []


def test_data_reaches_the_disk_before_the_name_changes(tmp_path, monkeypatch):
    calls = []

    def record(name):
        call = getattr(os, name)
        monkeypatch.setattr(files.os, name, lambda *args: (calls.append(name), call(*args)))

    record("fsync")
    record("replace")
    with atomic_write(tmp_path / "a.json") as temporary:
        temporary.write_text("new")
    assert calls == ["fsync", "replace"]


def test_killed_process(tmp_path):
    """Leaves the old file, and a temporary one that the next write replaces."""
    path = tmp_path / "a.json"
    path.write_text("old")
    code = """
import os, signal, sys
from sprout_fast.errors import UserError
from sprout_fast.files import atomic_write, folder_lock
with atomic_write(sys.argv[1]) as temporary:
    temporary.write_text("half of a long text")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code, path]).returncode == -9
    assert path.read_text() == "old"
    assert names(tmp_path) == [".a.json.tmp", "a.json"]
    with atomic_write(path) as temporary:
        assert not temporary.exists()
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.json"]


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "none" / "a") as temporary:
        temporary.write_text("new")


LOCKED = """
import os, sys, time
from pathlib import Path
from sprout_fast.files import folder_lock

with folder_lock(Path(sys.argv[1])) as locked:
    child = os.fork()  # a data loader's worker, which outlives its parent
    if child:
        print(child, locked, flush=True)
    time.sleep(60)
"""


def test_a_locked_folder_names_the_process_and_is_free_when_that_is_killed(tmp_path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", LOCKED, tmp_path],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert first.stdout is not None
    child, locked = first.stdout.readline().split()
    try:
        assert locked == "True"
        owner = rf"in use by process {first.pid} on \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d$"
        with pytest.raises(UserError, match=owner), folder_lock(tmp_path):
            pass
        first.kill()
        first.wait()
        with folder_lock(tmp_path) as locked:
            assert locked
    finally:
        first.kill()
        os.kill(int(child), signal.SIGKILL)
