"""Listings that are kept: the same as new ones, never out of date, shared by processes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.image_files import encode, plain_image, write_folder, write_tar

from sprout_fast.data import build_loaders, listing_cache, scan
from sprout_fast.data.names import Names
from sprout_fast.errors import UserError

ODD = os.fsdecode(b"caf\xe9\n.jpg")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sprout_fast" / "listings"


def age(root):
    """Set the time of change of everything to an hour ago."""
    for path in [root, *root.rglob("*")]:
        os.utime(path, (time.time() - 3600,) * 2)


@pytest.fixture
def folder(tmp_path):
    root = write_folder(tmp_path / "set", {"train": {"a": 3, "b": 2}, "val": {"a": 1, "b": 2}})
    (root / "train" / "a" / "000.jpg").rename(root / "train" / "a" / ODD)
    age(root)
    return root


@pytest.fixture
def shards(tmp_path):
    root = tmp_path / "tars"
    for split in ("train", "val"):
        for number in range(2):
            members = {
                f"{number}.jpg": encode(plain_image(number)),
                f"{number}.cls": b"%d" % number,
            }
            write_tar(root / f"{split}-{number}.tar", members)
    age(root)
    return root


def keep(data):
    """Return the listing, and whether it was read from the data set."""
    read = []

    def scanned():
        read.append(data)
        return scan(data, cached=False)

    return listing_cache.keep(Path(data), scanned, least_seconds=0), bool(read)


def assert_same(one, other):
    assert one.classes == other.classes
    for mine, its in ((one.train, other.train), (one.val, other.val)):
        assert type(mine) is type(its) and np.array_equal(mine.labels, its.labels)
        assert [mine.name(i) for i in range(len(mine))] == [its.name(i) for i in range(len(its))]
        assert [mine.read(i) for i in range(len(mine))] == [its.read(i) for i in range(len(its))]


@pytest.mark.parametrize("kind", ["folder", "shards", "tar", "both"])
def test_a_kept_listing_is_the_same(request, tmp_path, kind):
    if kind == "both":
        data = write_folder(tmp_path / "set", {".": {"a": 2, "b": 1}})
    elif kind == "tar":
        content = {
            f"{s}/a/{n}.jpg": encode(plain_image(n)) for s in ("train", "val") for n in (0, 1)
        }
        data = write_tar(tmp_path / "one" / "set.tar", content)
    else:
        data = request.getfixturevalue(kind)
    age(data)
    first, was_read = keep(data)
    assert was_read
    second, was_read = keep(data)
    assert not was_read and "unchanged since)" in second.layout
    fresh = scan(data, cached=False)
    for listing in (first, second):
        assert_same(listing, fresh)
        assert (listing.train is listing.val) == (kind == "both")
        subset = listing.train.subset(np.array([1]))
        assert subset.name(0) == fresh.train.name(1)


def test_loaders_read_a_kept_listing(folder):
    keep(folder)
    listing, was_read = keep(folder)
    assert not was_read
    options = {"batch_size": 2, "image_size": 24, "workers": 0}
    for loader, size in (("torch", 24), ("memory", None)):
        options["image_size"] = size
        kept = build_loaders(folder, listing=listing, loader=loader, **options)
        fresh = build_loaders(folder, loader=loader, **options)
        for one, other in zip(kept.train, fresh.train, strict=True):
            assert one[0].equal(other[0]) and one[1].equal(other[1])


def test_changes_are_noticed(folder):
    def change(what):
        keep(folder)
        assert not keep(folder)[1]
        what()
        listing, was_read = keep(folder)
        assert was_read
        assert_same(listing, scan(folder, cached=False))
        age(folder)
        keep(folder)
        return len(listing.train), len(listing.val)

    new = folder / "train" / "b" / "new.jpg"
    assert change(lambda: new.write_bytes(encode(plain_image(3)))) == (6, 3)
    assert change(lambda: new.rename(folder / "train" / "a" / "new.jpg")) == (6, 3)
    assert change((folder / "train" / "a" / "new.jpg").unlink) == (5, 3)
    deeper = folder / "val" / "a" / "deeper"
    assert change(deeper.mkdir) == (5, 3)
    assert change(lambda: (deeper / "x.png").write_bytes(b"")) == (5, 4)
    (folder / "train" / "c").mkdir()
    with pytest.raises(UserError, match="c: class without images"):
        keep(folder)


def test_a_changed_tar_is_noticed(shards):
    keep(shards)
    assert not keep(shards)[1]
    members = {f"{n}.{e}": c for n in (0, 1) for e, c in (("jpg", b""), ("cls", b"%d" % n))}
    write_tar(shards / "train-0.tar", members)
    listing, was_read = keep(shards)
    assert was_read and len(listing.train) == 3
    age(shards)
    keep(shards)
    write_tar(shards / "train-2.tar", members)
    listing, was_read = keep(shards)
    assert was_read and len(listing.train) == 5


def test_what_just_changed_is_not_kept(folder, cache):
    os.utime(folder / "train" / "a")
    assert keep(folder)[1] and keep(folder)[1]
    assert not cache.exists()


def test_a_quick_listing_is_not_kept(folder, cache):
    scan(folder)
    assert not cache.exists()


def test_compressed_shards_are_not_kept(tmp_path, cache):
    for split in ("train", "val"):
        write_tar(tmp_path / "set" / f"{split}-0.tgz", {"0.jpg": b"", "0.cls": b"0"}, "w:gz")
    age(tmp_path / "set")
    assert keep(tmp_path / "set")[1] and keep(tmp_path / "set")[1]
    assert not cache.exists()


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "version", "garbage"])
def test_a_damaged_file_is_replaced(folder, cache, damage):
    keep(folder)
    (path,) = cache.glob("*.listing")
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[-3] ^= 4
    path.write_bytes(
        {
            "cut": content[:-70],
            "flip": bytes(flipped),
            "empty": b"",
            "version": content.replace(b"listing 1", b"listing 0", 1),
            "garbage": b"\n" * 500,
        }[damage]
    )
    listing, was_read = keep(folder)
    assert was_read
    assert_same(listing, scan(folder, cached=False))
    assert path.read_bytes()[-200:] == content[-200:]
    assert not keep(folder)[1]


def test_a_cache_that_cannot_be_written_is_told(folder, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    listing, was_read = keep(folder)
    assert was_read and "(listing not cached, " in listing.layout
    assert listing.layout.endswith("cannot be written: Not a directory)")
    assert_same(listing, scan(folder, cached=False))


def test_the_data_is_left_as_it_was(folder):
    before = sorted(folder.rglob("*"))
    keep(folder)
    assert sorted(folder.rglob("*")) == before


RANK = """
import os, sys, time
from pathlib import Path

from sprout_fast.data import listing_cache, scan

data, log, end = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]


def read():
    with open(log, "a") as file:
        print(os.environ["RANK"], file=file)
    time.sleep(1.5)  # the other rank has come by now
    if end == "dies" and len(log.read_text().split()) == 1:
        os._exit(0)  # the other takes over
    return scan(data, cached=False)


if end == "dies":
    listing = listing_cache.keep(data, read)
else:
    from sprout_fast.distributed import joined_world

    with joined_world("cpu") as world:
        listing = listing_cache.keep(data, read)
        world.barrier()
assert len(listing.train) == 5
"""


@pytest.mark.parametrize("end", ["lists", "dies"])
def test_of_two_ranks_one_lists(folder, tmp_path, end):
    (tmp_path / "rank.py").write_text(RANK)
    arguments = [tmp_path / "rank.py", folder, tmp_path / "log", end]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    if end == "lists":
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        processes = [subprocess.Popen([sys.executable, *launch, *arguments], env=environment)]
    else:
        processes = [
            subprocess.Popen(
                [sys.executable, *arguments],
                env=environment | {"RANK": str(rank), "WORLD_SIZE": "2"},
            )
            for rank in range(2)
        ]
    assert [process.wait(120) for process in processes] == [0] * len(processes)
    ranks = (tmp_path / "log").read_text().split()
    assert len(ranks) == (1 if end == "lists" else 2)
    assert len(set(ranks)) == len(ranks)


def test_names_of_any_characters():
    names = ["", "a", ODD, "ü" * 90, "x/y.jpg", ""]
    packed = Names.pack(names)
    assert list(packed) == names and [packed[i] for i in range(len(packed))] == names
    joined = Names.join([packed, Names.pack([]), packed])
    assert list(joined) == names * 2
    assert list(Names.join([Names.pack([])])) == []
