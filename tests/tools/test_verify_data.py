"""tools/verify_data.py: counts, sizes, conversions, unreadable images, exit status."""

import os
import subprocess
import sys
from typing import NamedTuple

import pytest
from helpers.image_files import encode, noise_image, write_folder, write_tar
from helpers.paths import TOOLS

from sprout_fast.data.command import main

TOOL = TOOLS / "verify_data.py"


@pytest.fixture
def data(tmp_path):
    write_folder(tmp_path, {"train": {"a": 3, "b": 2}, "val": {"a": 1, "b": 1}}, noise_image)
    noise_image(9, (31, 20)).save(tmp_path / "train" / "a" / "small.jpg")
    return tmp_path


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def verify(capsys, monkeypatch):
    """Run the program in this process, which saves the seconds that importing torch takes."""
    monkeypatch.setattr(sys, "argv", [str(TOOL)])

    def run(*arguments):
        status = main([str(argument) for argument in arguments])
        return Done(status, *capsys.readouterr())

    return run


def test_as_a_command(tmp_path):
    done = subprocess.run(
        [sys.executable, TOOL, tmp_path / "nowhere"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr == f"verify_data.py: error: {tmp_path / 'nowhere'}: no such folder or file\n"


def test_good_data(data, verify):
    done = verify(data, "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "train: 6 images of 2 classes, 2 (b) to 4 (a) per class, 31x20 to 90x70 pixels",
        "val: 2 images of 2 classes, 1 (a) to 1 (a) per class, 90x70 to 90x70 pixels",
    ]
    assert done.stderr == ""


def test_unreadable_images_are_listed(data, verify):
    bad = [data / "train" / "a" / "000.jpg", data / "train" / "b" / "004.jpg"]
    bad[0].write_bytes(b"no image at all")
    bad[1].write_bytes(bad[1].read_bytes()[:900])
    empty = data / "val" / "a" / "000.jpg"
    empty.write_bytes(b"")
    done = verify(data)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert lines[0] == f"{bad[0]}: not an image"
    assert lines[1].startswith(f"{bad[1]}: damaged image (")
    assert lines[2] == f"{empty}: empty file"
    assert lines[3] == f"verify_data.py: error: {data}: 3 unreadable images, listed above"
    assert len(lines) == 4


def test_conversions_are_reported(data, verify):
    noise_image(0).save(data / "val" / "a" / "000.jpg", format="GIF")
    noise_image(1).convert("L").save(data / "train" / "a" / "000.jpg")
    noise_image(2).convert("L").save(data / "train" / "a" / "001.jpg")
    done = verify(data)
    assert done.returncode == 0
    gray = data / "train" / "a" / "000.jpg"
    assert f"train: gray to RGB: 2 images, e.g. {gray}" in done.stdout.splitlines()
    assert "val: palette to RGB: 1 images, e.g. " in done.stdout


def test_names_that_no_terminal_shows(tmp_path, verify):
    for split in ("train", "val"):
        folder = tmp_path / split / os.fsdecode(b"caf\xe9")
        folder.mkdir(parents=True)
        noise_image(0).save(folder / "a\nb.jpg")
    (folder / "a\nb.jpg").write_bytes(b"bad")
    done = verify(tmp_path)
    assert done.returncode == 2
    assert r"1 (caf\xe9) to 1 (caf\xe9) per class" in done.stdout
    assert done.stderr.splitlines()[0].endswith(r"val/caf\xe9/a\nb.jpg: not an image")
    done.stdout.encode("ascii")
    assert done.stderr.count("\n") == 2


def test_tars(tmp_path, verify):
    members = {"1.jpg": encode(noise_image(1)), "1.cls": b"0", "2.jpg": b"bad", "2.cls": b"0"}
    for split in ("train", "val"):
        write_tar(tmp_path / f"{split}-0.tar", members)
    done = verify(tmp_path)
    assert done.returncode == 2
    assert f"{tmp_path / 'val-0.tar'}/2.jpg: not an image" in done.stderr.splitlines()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "verify_data.py: error: nowhere: no such folder or file"),
        ([".", "--workers", "0"], "verify_data.py: error: --workers 0: expected 1 or more"),
        ([".", "--worker", "2"], "verify_data.py: error: "),
        ([], "verify_data.py: error: "),
    ],
)
def test_mistakes_give_one_line(arguments, said, verify):
    done = verify(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1
