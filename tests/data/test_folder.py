"""Image folders: what is listed, and what is refused."""

import pytest
from helpers.image_files import write_folder
from torchvision.datasets import ImageFolder

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
    assert list(zip(listing.train.paths, listing.train.labels, strict=True)) == expected.samples
    # val lacks class C: its labels are still those of train
    assert sorted(listing.val.labels) == [1, 2, 2]


def test_folder_without_splits_serves_both(tmp_path):
    write_folder(tmp_path, {".": {"a": 2, "b": 1}})
    listing = scan_folder(tmp_path)
    assert listing.train is listing.val
    assert len(listing.train) == 3
    assert "both" in listing.layout


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        scan_folder(tmp_path / "nowhere")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: no such folder"):
        scan_folder(tmp_path / "file")


def test_empty_folder(tmp_path):
    with pytest.raises(UserError, match="no class folders"):
        scan_folder(tmp_path)


def test_no_images(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "x.txt").write_text("")
    (tmp_path / "val").mkdir()
    with pytest.raises(UserError, match="train: no images; taken are .*jpg"):
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


def test_test_serves_where_there_is_no_val(tmp_path):
    write_folder(tmp_path, {"train": {"a": 1}, "test": {"a": 2}})
    assert len(scan_folder(tmp_path).val) == 2
    write_folder(tmp_path, {"val": {"a": 3}})
    assert len(scan_folder(tmp_path).val) == 3
