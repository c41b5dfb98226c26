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
