"""The sample set: complete or absent, and the same for the same arguments."""

import pytest
from PIL import Image

import sprout_fast.data.sample_set as sample_set
from sprout_fast.data import scan
from sprout_fast.data.sample_set import make_sample_set
from sprout_fast.errors import UserError

SMALL = {"train_per_class": 3, "val_per_class": 2}


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*.JPEG")}


def test_layout_is_imagenets(tmp_path):
    root = make_sample_set(tmp_path / "deep" / "set", **SMALL)
    listing = scan(root)
    assert len(listing.classes) == 10
    assert len(listing.train) == 30
    assert len(listing.val) == 20
    sizes = set()
    for path in root.glob("*/*/*.JPEG"):
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            sizes.add(image.size)
    assert len(sizes) > 20
    assert all(120 <= side <= 256 for size in sizes for side in size)


def test_same_seed_same_files(tmp_path):
    first, second, other = (
        contents(make_sample_set(tmp_path / name, seed=seed, **SMALL))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == second
    assert len(set(first.values())) == 50  # no image comes twice, in train or val
    assert not set(first.values()) & set(other.values())


def test_complete_set_is_reused(tmp_path, monkeypatch):
    root = make_sample_set(tmp_path / "set", **SMALL)
    monkeypatch.setattr(sample_set, "draw_sample", None)  # drawing would raise
    assert make_sample_set(root, **SMALL) == root


def test_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    real, drawn = sample_set.draw_sample, []

    def interrupted(name, rng):
        drawn.append(name)
        if len(drawn) == 20:
            raise KeyboardInterrupt
        return real(name, rng)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sample_set, "draw_sample", interrupted)
        make_sample_set(tmp_path / "set", **SMALL)
    assert list(tmp_path.iterdir()) == []
    assert len(contents(make_sample_set(tmp_path / "set", **SMALL))) == 50


def test_set_that_lacks_a_file_is_regenerated(tmp_path):
    root = make_sample_set(tmp_path / "set", **SMALL)
    before = contents(root)
    next(root.rglob("*.JPEG")).unlink()
    assert contents(make_sample_set(root, **SMALL)) == before


def test_other_arguments_make_another_set(tmp_path):
    root = make_sample_set(tmp_path / "set", **SMALL)
    make_sample_set(root, train_per_class=1, val_per_class=1)
    assert len(contents(root)) == 20


def test_other_folders_are_left_unchanged(tmp_path):
    (tmp_path / "photo.jpg").write_text("dear to me")
    with pytest.raises(UserError, match="exists and is not a sample set"):
        make_sample_set(tmp_path, **SMALL)
    assert (tmp_path / "photo.jpg").read_text() == "dear to me"


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        make_sample_set(tmp_path / "file" / "set", **SMALL)
