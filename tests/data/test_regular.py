"""Files that are none: a FIFO, a socket or a device in the place of an image, a tar or a batch."""

import faulthandler
import os
import socket

import pytest
from helpers.image_files import write_folder, write_tar

from sprout_fast.data import build_loaders, has_dali, read_images, scan
from sprout_fast.data.command import main as verify_data
from sprout_fast.data.listing import FileSplit
from sprout_fast.data.regular import open_regular
from sprout_fast.errors import UserError

LOADERS = ["torch", "memory"] + ["dali"] * has_dali()
KINDS = {"fifo": "a FIFO", "link": "a FIFO", "socket": "a socket", "device": "a device"}


@pytest.fixture(autouse=True)
def _no_hang():
    """End the whole process, since a thread that waits for a FIFO cannot be interrupted."""
    faulthandler.dump_traceback_later(60, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def put(kind, path):
    """Put something that is not a regular file at ``path``."""
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        os.mkfifo(path.with_suffix(".fifo"))
        path.symlink_to(path.with_suffix(".fifo"))
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's path is short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
        os.chdir(here)
    return path


@pytest.fixture
def data(tmp_path):
    return write_folder(tmp_path / "set", {"train": {"a": 5, "b": 4}, "val": {"a": 4, "b": 2}})


def build(data, loader, **options):
    size = None if loader == "memory" else 24
    workers = 0 if loader == "torch" else 1
    return build_loaders(
        data, loader=loader, batch_size=2, image_size=size, workers=workers, **options
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", ["train", "val"])
def test_in_the_place_of_an_image_it_is_refused_before_anything_is_read(data, kind, split):
    put(kind, data / split / "b" / "x.JPEG")
    for loader in LOADERS:
        with pytest.raises(UserError) as caught:
            build(data, loader)
        said = f"{split}/b/x.JPEG: cannot be read ({KINDS[kind]}, expected a regular file)"
        assert str(caught.value) == f"{data}/{said}"
    with pytest.raises(UserError, match=r"x\.JPEG: cannot be read"):
        read_images(data, loader="memory")


@pytest.mark.parametrize("kind", ["fifo", "link", "device"])
@pytest.mark.parametrize("loader", LOADERS)
def test_what_came_after_the_listing_is_named_by_every_loader(data, kind, loader):
    listing = scan(data)
    put(kind, data / "val" / "a" / "003.jpg")
    said = rf"003\.jpg: cannot be read \({KINDS[kind]}, expected a regular file\)"
    with pytest.raises(UserError, match=said):
        list(build(data, loader, listing=listing).val)
    with pytest.raises(UserError, match=said):
        assert isinstance(listing.val, FileSplit)
        listing.val.decode()


def test_verify_data_names_it(data, capsys):
    put("fifo", data / "val" / "b" / "x.JPEG")
    assert verify_data([str(data)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("/val/b/x.JPEG: cannot be read (a FIFO, expected a regular file)")


def test_hidden_names_and_other_files_may_be_anything(data):
    put("fifo", data / "train" / "a" / ".lock.jpg")
    put("fifo", data / "train" / "a" / "control")
    assert len(scan(data).train) == 9


def test_a_broken_link_is_left_to_verify_data(data, capsys):
    (data / "train" / "a" / "x.jpg").symlink_to(data / "nowhere")
    assert len(scan(data).train) == 10
    assert verify_data([str(data)]) == 2
    assert "x.jpg: cannot be read (No such file or directory)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["train-1.tar", "val-1.tar"])
def test_in_the_place_of_a_shard(tmp_path, name):
    for shard in ("train-0.tar", "val-0.tar"):
        write_tar(tmp_path / shard, {"0.jpg": b"", "0.cls": b"0"})
    put("fifo", tmp_path / name)
    with pytest.raises(UserError, match=rf"{name}: cannot be read \(a FIFO"):
        scan(tmp_path)
    both = f"{tmp_path}/{{train-0,train-1,val-0,val-1}}.tar"
    (tmp_path / ("val-1.tar" if name[0] == "t" else "train-1.tar")).symlink_to("val-0.tar")
    with pytest.raises(UserError, match=rf"{name}: not a readable tar file \(a FIFO, expected"):
        scan(both)


def test_in_the_place_of_an_index_it_is_none(tmp_path):
    for shard in ("train-0.tar", "val-0.tar"):
        write_tar(tmp_path / shard, {"0.jpg": b"", "0.cls": b"0"})
    put("fifo", tmp_path / "train-0.idx")
    os.utime(tmp_path / "train-0.idx", (2e9, 2e9))
    assert len(scan(tmp_path).train) == 1


def test_in_the_place_of_a_cifar_batch(tmp_path):
    put("fifo", tmp_path / "data_batch_1")
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "data_batch_1").rename(tmp_path / "cifar-10-batches-py" / "data_batch_1")
    with pytest.raises(UserError, match=r"data_batch_1: cannot be read \(a FIFO"):
        scan(tmp_path)


def test_as_the_data_set(tmp_path):
    with pytest.raises(UserError, match="no such folder or file"):
        scan(put("fifo", tmp_path / "set.tar"))


def test_opening_leaves_no_descriptor_behind(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    fifo = put("fifo", tmp_path / "x")
    for path in (fifo, tmp_path, "/dev/null", tmp_path / "nowhere"):
        with pytest.raises(OSError):
            open_regular(path)
    assert len(os.listdir("/proc/self/fd")) == before
    (tmp_path / "file").write_bytes(b"1234")
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"1234"
