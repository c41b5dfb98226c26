"""Image folders: which files are listed, and which folders are refused."""

import pytest
from helpers.image_files import write_folder
from torchvision.datasets import ImageFolder

from sprout_fast.data import scan
from sprout_fast.data.readers.folder import scan_folder
from sprout_fast.errors import UserError


def test_classes_and_labels_are_torchvisions(tmp_path):
    write_folder(tmp_path, {"train": {"b": 2, "a": 3, "C": 1}, "val": {"a": 1, "b": 2}})
    (tmp_path / "train" / "a" / "notes.txt").write_text("not an image")
    nested = tmp_path / "train" / "a" / "deeper"
    nested.mkdir()
    next((tmp_path / "train" / "a").glob("*.jpg")).rename(nested / "moved.JPEG")

    listing = scan_folder(tmp_path)

    expected = ImageFolder(tmp_path / "train")
    assert listing.classes == expected.classes == ["C", "a", "b"]
    paths = [listing.train.path(index) for index in range(len(listing.train))]
    assert list(zip(paths, listing.train.labels.tolist(), strict=True)) == expected.samples
    # val lacks class C: its labels are still those of train
    assert sorted(listing.val.labels.tolist()) == [1, 2, 2]


def test_folder_without_splits_serves_as_both(tmp_path):
    write_folder(tmp_path, {".": {"a": 2, "b": 1}})
    listing = scan_folder(tmp_path)
    assert listing.train is listing.val
    assert len(listing.train) == 3
    assert "both" in listing.layout


def test_linked_folders_are_followed(tmp_path):
    """People link a data set together; only a folder that comes twice in a class is refused."""
    real = write_folder(tmp_path / "real", {".": {"a": 3, "b": 2, "more": 2}})
    linked = tmp_path / "set"
    (linked / "train").mkdir(parents=True)
    for name in "ab":
        (linked / "train" / name).symlink_to(real / name)
    (real / "a" / "deeper").symlink_to(real / "more")
    (linked / "train" / "c").symlink_to(real / "b")  # two classes of one folder are no loop
    (linked / "val").symlink_to(linked / "train")
    listing = scan(linked)
    assert (len(listing.train), len(listing.val)) == (9, 9)
    assert len(listing.train.decode()) == 9


@pytest.mark.parametrize("to", ["train/a", "train", ".", "train/b", "train/a/x"])
def test_a_link_that_leads_back_up_is_refused(tmp_path, to):
    write_folder(tmp_path, {"train": {"a": 2, "b": 1}, "val": {"a": 1}})
    (tmp_path / "train" / "a" / "x").mkdir()
    (tmp_path / "train" / "a" / "x" / "loop").symlink_to(tmp_path / to)
    if to == "train/b":  # a loop of two links
        (tmp_path / "train" / "b" / "back").symlink_to(tmp_path / "train" / "a")
    with pytest.raises(UserError) as caught:
        scan(tmp_path)
    said = str(caught.value)
    assert "once more; expected each folder once within a class" in said
    assert said.startswith(f"{tmp_path}/train/a/x/loop") and "\n" not in said


def test_folders_that_double_at_each_level_are_refused(tmp_path):
    """Without a loop, and with a million paths to the last folder."""
    write_folder(tmp_path, {".": {"a": 1}})
    below = tmp_path / "a"
    for level in range(20):
        inner = tmp_path / f".level{level}"
        inner.mkdir()
        for name in ("left", "right"):
            (below / name).symlink_to(inner)
        below = inner
    with pytest.raises(UserError, match=r"a/\S*: is the folder \S* once more; expected"):
        scan(tmp_path)


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder or file"):
        scan(tmp_path / "nowhere")


def test_path_that_the_system_refuses():
    with pytest.raises(UserError, match=r"xxx: cannot be read \(File name too long\)"):
        scan("x" * 300)


def test_a_file_that_is_no_tar(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: not a readable tar file"):
        scan(tmp_path / "file")


def test_file_that_cannot_be_read_is_named(tmp_path):
    write_folder(tmp_path, {"train": {"a": 2}, "val": {"a": 1}})
    (tmp_path / "train" / "a" / "001.jpg").unlink()
    (tmp_path / "train" / "a" / "001.jpg").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"001.jpg: cannot be read \(No such file"):
        scan(tmp_path).train.decode()


def test_empty_folder(tmp_path):
    with pytest.raises(UserError, match="no class folders"):
        scan_folder(tmp_path)


def test_no_images(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "x.txt").write_text("")
    (tmp_path / "val").mkdir()
    with pytest.raises(UserError, match="train: no images; expected files that end in .*jpg"):
        scan_folder(tmp_path)


def test_no_validation_images(tmp_path):
    write_folder(tmp_path, {"train": {"a": 1}, "val": {"a": 0}})
    with pytest.raises(UserError, match="val: no images"):
        scan_folder(tmp_path)


def test_training_class_without_images(tmp_path):
    write_folder(tmp_path, {"train": {"a": 1, "b": 0}, "val": {"a": 1}})
    with pytest.raises(UserError, match="b: class without images"):
        scan_folder(tmp_path)


@pytest.mark.parametrize(("there", "missing"), [("train", "val"), ("val", "train")])
def test_only_one_split(tmp_path, there, missing):
    write_folder(tmp_path, {there: {"a": 1}})
    with pytest.raises(UserError, match=f"has {there}/ but no {missing}/"):
        scan_folder(tmp_path)


def test_val_class_that_train_lacks(tmp_path):
    write_folder(tmp_path, {"train": {"a": 1}, "val": {"a": 1, "zebra": 1}})
    with pytest.raises(UserError, match="class zebra in val has no training images"):
        scan_folder(tmp_path)


def test_test_is_used_if_there_is_no_val(tmp_path):
    write_folder(tmp_path, {"train": {"a": 1}, "test": {"a": 2}})
    assert len(scan_folder(tmp_path).val) == 2
    write_folder(tmp_path, {"val": {"a": 3}})
    assert len(scan_folder(tmp_path).val) == 3
