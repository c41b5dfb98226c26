"""tools/verify_data.py: counts, sizes, the names of what cannot be read, the exit status."""

import subprocess
import sys
from typing import NamedTuple

import pytest
import verify_data
from helpers.image_files import encode, noise_image, write_folder, write_tar
from helpers.paths import TOOLS

from sprout_fast.data import has_dali

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
def verify(capsys):
    """Run the tool in this process, which saves the seconds that importing torch takes."""

    def run(*arguments):
        status = verify_data.main([str(argument) for argument in arguments])
        return Done(status, *capsys.readouterr())

    return run


def test_as_a_command(tmp_path):
    done = subprocess.run(
        [sys.executable, TOOL, tmp_path / "nowhere"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr == f"verify_data.py: error: {tmp_path / 'nowhere'}: no such folder\n"


def test_good_data(data, verify):
    done = verify(data, "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "train: 6 images of 2 classes, 2 (b) to 4 (a) a class, 31x20 to 90x70 pixels",
        "val: 2 images of 2 classes, 1 (a) to 1 (a) a class, 90x70 to 90x70 pixels",
    ]
    assert done.stderr == ""


def test_all_unreadable_images_are_named(data, verify):
    bad = [data / "train" / "a" / "000.jpg", data / "train" / "b" / "004.jpg"]
    bad[0].write_bytes(b"no image at all")
    bad[1].write_bytes(bad[1].read_bytes()[:900])
    empty = data / "val" / "a" / "000.jpg"
    empty.write_bytes(b"")
    done = verify(data)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert lines[0] == f"{bad[0]}: not an image"
    assert lines[1].startswith(f"{bad[1]}: damaged (")
    assert lines[2] == f"{empty}: empty, or no permission to read it"
    assert lines[3] == f"verify_data.py: error: {data}: 3 unreadable images, named above"
    assert len(lines) == 4


@pytest.mark.skipif(not has_dali(), reason="DALI is not installed")
def test_image_that_only_pil_reads_is_named(data, verify):
    noise_image(0).save(data / "val" / "a" / "000.jpg", format="GIF")
    done = verify(data)
    assert done.returncode == 2
    assert "000.jpg: PIL can decode it, but DALI cannot" in done.stderr


def test_tars(tmp_path, verify):
    members = {"1.jpg": encode(noise_image(1)), "1.cls": b"0", "2.jpg": b"bad", "2.cls": b"0"}
    for split in ("train", "val"):
        write_tar(tmp_path / f"{split}-0.tar", members)
    done = verify(tmp_path)
    assert done.returncode == 2
    assert f"{tmp_path / 'val-0.tar'}: 2.jpg: not an image" in done.stderr.splitlines()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "verify_data.py: error: nowhere: no such folder"),
        ([".", "--workers", "0"], "verify_data.py: error: --workers 0: takes 1 or more"),
        ([".", "--worker", "2"], "verify_data.py: error: "),
        ([], "verify_data.py: error: "),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, said, verify):
    done = verify(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1
