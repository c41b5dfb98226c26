"""WebDataset tars: the same samples as a folder's, and what is refused."""

from pathlib import Path

import pytest
import torch
from helpers.image_files import encode, noise_image, numbers, plain_image, write_folder, write_tar

from sprout_fast.data import build_loaders, scan
from sprout_fast.errors import UserError

pytest.importorskip("nvidia.dali")

NAMES = ("cat", "dog", "emu")


def samples(split, first, count, cls, make=plain_image):
    """Tar members of images `first`, ..., with their `.cls` as `cls(number)` says."""
    members = {}
    for number in range(first, first + count):
        members[f"./{split}/{number:03d}.jpg"] = encode(make(number))
        members[f"./{split}/{number:03d}.cls"] = cls(number).encode()
    return members


def write_tars(root, cls=lambda number: str(number % 3), make=plain_image):
    """25 training samples in three tars, 7 for validation in two."""
    for index, (first, count) in enumerate([(0, 10), (10, 10), (20, 5)]):
        write_tar(root / f"train-{index}.tar", samples("train", first, count, cls, make))
    for index, (first, count) in enumerate([(0, 4), (4, 3)]):
        write_tar(root / f"val-{index}.tar", samples("val", first, count, cls, make))
    return root


def build(data, **options):
    options = {"batch_size": 4, "image_size": 24, "seed": 0, "workers": 1} | options
    return build_loaders(data, loader="dali", device=torch.device("cpu"), **options)


def epoch(loader):
    return [
        pair
        for images, labels in loader
        for pair in zip(numbers(images), labels.tolist(), strict=True)
    ]


def test_each_sample_once_with_its_label(tmp_path, capfd):
    loaders = build(write_tars(tmp_path))
    assert loaders.classes == ["0", "1", "2"]
    assert "25 training and 7 validation images of 3 classes" in loaders.description
    epochs = [epoch(loaders.train) for _ in range(3)]
    for pairs in epochs:
        assert len({number for number, _ in pairs}) == len(pairs) == 24
        assert all(label == number % 3 for number, label in pairs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] == epoch(build(tmp_path).train)
    assert epochs[0] != epoch(build(tmp_path, seed=1).train)
    for _ in range(2):
        assert epoch(loaders.val) == [(number, number % 3) for number in range(7)]
    assert capfd.readouterr().err == ""  # DALI warns where it has to make the index itself


def test_folders_of_tars_and_text_classes(tmp_path):
    def cls(number):
        return NAMES[number % 3] + "\n" * (number % 2)

    write_tar(tmp_path / "train" / "a.tar", samples("t", 0, 6, cls))
    write_tar(tmp_path / "val" / "b.tar", samples("v", 0, 5, cls))
    loaders = build(tmp_path)
    assert loaders.classes == list(NAMES)
    assert epoch(loaders.val) == [(number, number % 3) for number in range(5)]


def test_validation_is_a_folders(tmp_path):
    """The same files give the same pixels whichever way they are stored."""
    write_folder(tmp_path / "files", {"train": {"a": 4}, "val": {"a": 7}}, noise_image)
    write_tars(tmp_path / "tars", cls=lambda number: "a", make=noise_image)
    folder, tars = (
        torch.cat([images for images, _ in build(tmp_path / kind).val])
        for kind in ("files", "tars")
    )
    assert torch.equal(folder, tars)


@pytest.mark.parametrize("shard_id", [0, 1])
def test_resumed_run_sees_the_same_images(tmp_path, shard_id):
    write_tars(tmp_path, make=noise_image)

    def train():
        return build(tmp_path, shard_id=shard_id, num_shards=2, batch_size=3).train

    whole, before, after = train(), train(), train()
    for _ in range(2):
        list(whole)
        list(before)
    after.load_state_dict(before.state_dict())
    for _ in range(2):
        for (images, labels), (expected, expected_labels) in zip(after, whole, strict=True):
            assert torch.equal(images, expected)
            assert torch.equal(labels, expected_labels)


def test_state_of_one_rank_gives_all_whole_epochs(tmp_path):
    """13 and 12 samples: the second rank's order may differ from a run without a break."""
    write_tars(tmp_path)
    first, second = (
        build(tmp_path, shard_id=s, num_shards=2, batch_size=3).train for s in range(2)
    )
    list(first)
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        seen = [number for train in (first, second) for number, _ in epoch(train)]
        assert len(set(seen)) == len(seen) == 24


def test_shards_share_the_samples(tmp_path):
    write_tars(tmp_path)
    shards = [build(tmp_path, shard_id=s, num_shards=2, batch_size=3) for s in range(2)]
    for _ in range(3):
        parts = [[number for number, _ in epoch(shard.train)] for shard in shards]
        assert [len(part) for part in parts] == [12, 12]
        assert len(set(sum(parts, []))) == 24
    seen = [number for shard in shards for number, _ in epoch(shard.val)]
    assert sorted(seen) == list(range(7))


@pytest.mark.parametrize("named", [True, False])
def test_index_files_beside_the_tars_are_used(tmp_path, named):
    write_tars(tmp_path)
    made = scan(tmp_path).val
    for tar, index in zip(made.paths, made.index_paths, strict=True):
        text = Path(index).read_text()
        if not named:  # version 1.1 has no member names
            header, *lines = text.splitlines()
            fields = [line.split() for line in lines]
            kept = [[f for i, f in enumerate(line) if i % 4 != 3] for line in fields]
            text = "\n".join([header.replace("1.2", "1.1"), *map(" ".join, kept), ""])
        Path(tar).with_suffix(".idx").write_text(text)
    again = scan(tmp_path).val
    assert all(path.startswith(str(tmp_path)) for path in again.index_paths)
    assert epoch(build(tmp_path).val) == [(number, number % 3) for number in range(7)]


def test_names_with_spaces_and_other_components(tmp_path):
    members = {
        "my image 1.png": encode(plain_image(3)),
        "my image 1.json": b"{}",
        "my image 1.cls": b"0",
        ".hidden": b"",
    }
    for split in ("train", "val"):
        write_tar(tmp_path / f"{split}-0.tar", members)
    assert epoch(build(tmp_path, batch_size=1).val) == [(3, 0)]


@pytest.mark.parametrize("content", [b"no image at all", encode(noise_image(1))[:500]])
def test_unreadable_image_is_named(tmp_path, content):
    write_tars(tmp_path)
    members = samples("val", 0, 4, lambda number: "0")
    members["./val/002.jpg"] = content
    write_tar(tmp_path / "val-0.tar", members)
    with pytest.raises(UserError, match=r"val-0\.tar\S*[: ]\S*002.*: not an image that DALI"):
        list(build(tmp_path).val)


@pytest.mark.parametrize(("missing", "said"), [("jpg", "no image"), ("cls", "no .cls")])
def test_incomplete_sample_is_named(tmp_path, missing, said):
    write_tars(tmp_path)
    members = samples("train", 0, 3, str)
    del members[f"./train/001.{missing}"]
    write_tar(tmp_path / "train-0.tar", members)
    with pytest.raises(UserError, match=rf"train-0\.tar: sample \S*001 has {said}"):
        build(tmp_path)


def test_not_a_tar(tmp_path):
    write_tars(tmp_path)
    (tmp_path / "val-1.tar").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"val-1\.tar: not a readable tar file"):
        build(tmp_path)


def test_empty_tar(tmp_path):
    write_tars(tmp_path)
    write_tar(tmp_path / "val-1.tar", {})
    with pytest.raises(UserError, match=r"val-1\.tar: holds no samples"):
        build(tmp_path)


def test_val_tars_missing(tmp_path):
    write_tar(tmp_path / "train-0.tar", samples("t", 0, 3, str))
    with pytest.raises(UserError, match="no val tars"):
        build(tmp_path)


def test_val_class_that_train_lacks(tmp_path):
    write_tar(tmp_path / "train-0.tar", samples("t", 0, 5, lambda number: str(number % 2)))
    write_tar(tmp_path / "val-0.tar", samples("v", 0, 5, lambda number: "7"))
    with pytest.raises(UserError, match="class 7 in val"):
        build(tmp_path)


def test_torch_loader_refuses_tars(tmp_path):
    write_tars(tmp_path)
    with pytest.raises(UserError, match="--loader torch: .* tars; take --loader dali"):
        build_loaders(
            tmp_path,
            loader="torch",
            batch_size=4,
            image_size=24,
            device=torch.device("cpu"),
            seed=0,
        )
