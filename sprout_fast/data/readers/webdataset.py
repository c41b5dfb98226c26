"""WebDataset tars, named by their split, in one folder or one folder per split.

``D/train-*.tar`` and ``D/val-*.tar``, ``D/NAME-train-0000.tar`` and ``D/NAME-validation-00.tar``,
or ``D/train/*.tar`` and ``D/val/*.tar``, compressed or not, or listed by an expression with
braces: ``D/{train-{000000..000146},val-{000000..000006}}.tar``.

A sample is a key, the file name up to its first dot, with an image and a label: ``.cls``, which
holds a number or a text, or ``.json``, an object with ``label``, ``cls``, ``class`` or
``class_id``. Extensions may be upper case and may come after further components
(``KEY.image.jpg``). Number labels are the labels themselves; texts are labeled in sorted order.
Index files of DALI's ``wds2idx`` are not needed; one that is newer than its tar and contradicts
it is refused, since one of the two was mixed up.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sprout_fast.data.listing import READERS, Listing, check_val_classes, stamp
from sprout_fast.data.names import Names, is_hidden, is_image, printable
from sprout_fast.data.readers.tar import Shard, TarSplit, as_places, list_members, tar_split
from sprout_fast.data.regular import check_regular, open_regular
from sprout_fast.errors import UserError

# In order of preference: the first name that has tars is the split.
_SPLITS = {"train": ("train",), "val": ("val", "validation", "valid", "test")}
_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
_JSON_KEYS = ("label", "cls", "class", "class_id")
_MOST_TARS = 100_000
_NUMBER = re.compile(r"-?[0-9]{1,18}")


@READERS.register("webdataset")
def scan_tars(data: Path) -> Listing | None:
    """List the WebDataset tars at ``data``, or return None if there are none.

    Raises:
        UserError: training or validation tars are missing, one is damaged or cut off, a sample has
            no image or no label, number labels are not those of K classes, or val has a class that
            train lacks.
    """
    tars = find_tars(data)
    if not any(tars.values()):
        return None
    for split, found in tars.items():
        if not found:
            expected = f"expected {split}-*.tar or {split}/*.tar"
            raise UserError(f"{printable(data)}: no {split} tars; {expected}")
    folders = {tar.parent for found in tars.values() for tar in found} | {data}
    sources = {str(folder): stamp(folder) for folder in folders if os.path.isdir(folder)}
    sources |= {str(tar): stamp(tar) for found in tars.values() for tar in found}
    shards = {split: [_read_shard(tar) for tar in found] for split, found in tars.items()}
    named = {
        split: [name for _, names in found for name in names] for split, found in shards.items()
    }
    check_val_classes(set(named["val"]), set(named["train"]), data)
    classes = _class_names(set(named["train"]), data)
    label_of = {name: label for label, name in enumerate(classes)}

    def make_split(split: str) -> TarSplit:
        labels = np.array([label_of[name] for name in named[split]], np.int64)
        return tar_split([shard for shard, _ in shards[split]], labels)

    layout = f"WebDataset tars {printable(data)} ({len(tars['train'])} + {len(tars['val'])})"
    train, val = make_split("train"), make_split("val")
    # What is uncompressed lives as long as this process.
    plain = all(split.files == split.tars for split in (train, val))
    return Listing(classes, train, val, layout, sources if plain else None)


def find_tars(data: Path) -> dict[str, list[Path]]:
    """Return the training and the validation tars at ``data``, sorted."""
    found: dict[str, list[Path]] = {split: [] for split in _SPLITS}
    if "{" in str(data) and not os.path.exists(data):
        listed = [Path(path) for path in dict.fromkeys(expand_braces(str(data)))]
    else:
        folders = [data / name for names in _SPLITS.values() for name in names]
        listed = [path for folder in (data, *folders) for path in _tars_in(folder)]
    for split, names in _SPLITS.items():
        for name in names:
            # By its own name, such as imagenet-train-000000.tar, or by its folder's.
            pattern = re.compile(rf"{name}-|.*[-_.]{name}[-_.]\d")
            own = [path for path in listed if pattern.match(path.name)]
            inside = [path for path in listed if path.parent.name == name]
            if own or inside:
                found[split] = sorted(own or inside)
                break
    return found


def _tars_in(folder: Path) -> list[Path]:
    paths = folder.iterdir() if os.path.isdir(folder) else ()
    paths = [path for path in paths if path.name.lower().endswith(_SUFFIXES)]
    paths = [path for path in paths if not is_hidden(path.name) and not path.is_dir()]
    for path in paths:
        check_regular(path)
    return paths


def expand_braces(pattern: str) -> list[str]:
    """Expand ``{a,b}`` and ``{000..146}`` as a shell does, nested ones too.

    Raises:
        UserError: a brace is not closed, or there are more than 100,000 names.

    >>> expand_braces("{train-{08..10},val-0}.tar")
    ['train-08.tar', 'train-09.tar', 'train-10.tar', 'val-0.tar']
    """
    start = pattern.find("{")
    if start < 0:
        return [pattern]
    depth, parts, last = 0, [], start + 1
    for at in range(start, len(pattern)):
        depth += {"{": 1, "}": -1}.get(pattern[at], 0)
        if depth == 0 or (depth == 1 and pattern[at] == ","):
            parts.append(pattern[last:at])
            last = at + 1
        if depth == 0:
            break
    else:
        raise UserError(f"{printable(pattern)}: the brace is not closed")
    if len(parts) == 1 and (bounds := re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", parts[0])):
        first, final = bounds.groups()
        if int(final) - int(first) >= _MOST_TARS:
            raise UserError(f"{printable(pattern)}: more than {_MOST_TARS:,} tars")
        parts = [f"{i:0{len(first)}d}" for i in range(int(first), int(final) + 1)]
    rest = expand_braces(pattern[last:])
    middle = [one for part in parts for one in expand_braces(part)]
    if len(middle) * len(rest) > _MOST_TARS:
        raise UserError(f"{printable(pattern)}: more than {_MOST_TARS:,} tars")
    return [pattern[:start] + one + after for one in middle for after in rest]


def _check_index(tar: Path) -> None:
    """Raise ``UserError`` if ``tar`` has a newer index file whose offsets are not its own."""
    index = tar.with_suffix(".idx")
    try:
        if index.stat().st_mtime < tar.stat().st_mtime:
            return  # left behind by an earlier version of the tar
        with open_regular(index) as file:
            version, *lines = file.read().decode().splitlines()
        width = 4 if version.startswith("v1.2") else 3  # extension offset size [name]
        places = [line.split()[at + 1 : at + 3] for line in lines for at in (0, width)]
        offsets = [(int(place[0]), int(place[1])) for place in places if place]
    except (OSError, ValueError, IndexError):  # none, or not an index
        return
    with open_regular(tar) as file:
        for offset, size in offsets[:2] + offsets[-2:]:
            file.seek(max(offset - tarfile.BLOCKSIZE, 0))
            try:
                header = tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "replace")
                if header.size == size:
                    continue
            except tarfile.HeaderError:
                pass
            raise UserError(
                f"{printable(index)}: not the index of {printable(tar.name)}; delete it "
                "(no index is needed)"
            )


def _read_shard(tar: Path) -> tuple[Shard, list[str]]:
    """Return the shard and, for each image, the class as written."""
    file, members = list_members(tar)
    if file == tar:
        _check_index(tar)
    keys: dict[str, dict[str, str]] = {}  # of each sample, its members' names by extension
    for name in members:
        folder, slash, base = name.rpartition("/")
        stem, _, extension = base.partition(".")
        keys.setdefault(folder + slash + stem, {})[extension] = name
    if not keys:
        raise UserError(f"{printable(tar)}: holds no samples")
    images, classes = [], []
    with open_regular(file) as content:
        for key, parts in keys.items():
            for image, label in _samples(tar, key, parts):
                offset, size = members[label]
                content.seek(offset)
                classes.append(_class_name(content.read(size), printable(f"{tar}/{label}")))
                images.append(image)
    places = as_places(members[image] for image in images)
    return (tar, file, Names.pack(images), places), classes


def _samples(tar: Path, key: str, parts: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the names of the image and the label of each sample of a key."""
    images: dict[str, str] = {}
    labels: dict[str, str] = {}
    for extension, name in parts.items():
        prefix, _, suffix = extension.lower().rpartition(".")
        if is_image(f".{suffix}"):
            images.setdefault(prefix, name)
        elif suffix == "cls" or (suffix == "json" and prefix not in labels):
            labels[prefix] = name
    if both := [prefix for prefix in images if prefix in labels]:
        # Keys with dots, such as photo.1.jpg, photo.1.cls, photo.2.jpg, ..., are several samples.
        yield from ((images[prefix], labels[prefix]) for prefix in both)
    elif len(images) == len(labels) == 1:  # KEY.image.jpg and KEY.cls
        yield next(iter(images.values())), next(iter(labels.values()))
    else:
        lacks = "image" if not images else ".cls or .json" if not labels else "one image and label"
        held = printable(", ".join(parts))
        raise UserError(f"{printable(f'{tar}: sample {key}')} has no {lacks}; it holds {held}")


def _class_name(content: bytes, where: str) -> str:
    """Return the class that a label file holds; numbers in their shortest form."""
    text = content.decode("utf-8-sig", errors="replace").strip()
    if where.lower().endswith(".json"):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not JSON ({printable(error)})") from error
        if isinstance(value, dict):
            value = next((value[key] for key in _JSON_KEYS if key in value), None)
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise UserError(f"{where}: no class in it, expected {' or '.join(_JSON_KEYS)}")
        text = str(value).strip()
    if not text:
        raise UserError(f"{where}: empty label")
    return str(int(text)) if _NUMBER.fullmatch(text) else text


def _class_names(names: set[str], data: Path) -> list[str]:
    if not all(map(_NUMBER.fullmatch, names)):
        return sorted(names)
    low, high = min(map(int, names)), max(map(int, names))
    # A set of few shards may lack some classes; one that lacks most has numbers of another kind.
    if low != 0 or 2 * len(names) < high + 1:
        raise UserError(
            f"{printable(data)}: labels from {low} to {high}, of which {len(names)} occur; "
            "expected class numbers 0 to K - 1"
        )
    return [str(label) for label in range(high + 1)]
