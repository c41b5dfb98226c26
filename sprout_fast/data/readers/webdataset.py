"""WebDataset tars: ``D/train-*.tar`` and ``D/val-*.tar``, or ``D/train/*.tar`` and ``D/val/*.tar``.

A sample is the tar's consecutive members of one name up to the first dot: an image and a ``.cls``
that holds its class, either as a number (the label itself) or as text (labels then follow the
sorted texts). DALI reads the samples at offsets that an index file gives: ``<name>.idx`` beside
``<name>.tar`` where there is one (DALI's ``wds2idx`` makes it), else one made here in a temporary
folder that lives as long as the process.
"""

from __future__ import annotations

import tarfile
import tempfile
from collections import Counter
from functools import cache
from itertools import groupby
from pathlib import Path

from sprout_fast.data.readers.encoded import IMAGE_EXTENSIONS, read_components
from sprout_fast.data.readers.listing import Listing, TarSplit, check_val_classes
from sprout_fast.errors import UserError


def find_tars(data: Path) -> tuple[list[Path], list[Path]]:
    """The training and the validation tars under `data`, sorted; empty lists where there are none.

    >>> find_tars(Path("no/such/folder"))
    ([], [])
    """

    def of(split: str) -> list[Path]:
        return sorted(data.glob(f"{split}-*.tar")) or sorted((data / split).glob("*.tar"))

    return of("train"), of("val")


def scan_tars(data: Path) -> Listing:
    """List the tars under `data`, reading every ``.cls`` once.

    Raises:
        UserError: training or validation tars are missing, one is not a tar, a sample has no image
            or no ``.cls``, or val has a class that train lacks.
    """
    train_tars, val_tars = find_tars(data)
    for split, tars in (("train", train_tars), ("val", val_tars)):
        if not tars:
            raise UserError(f"{data}: no {split} tars; taken are {split}-*.tar or {split}/*.tar")
    train_index = [_index(tar) for tar in train_tars]
    val_index = [_index(tar) for tar in val_tars]
    train, val = _contents(train_tars, train_index), _contents(val_tars, val_index)
    train_names, val_names = _names(train), _names(val)
    check_val_classes(val_names, train_names, str(data))

    if all(name.isdecimal() for name in train_names):
        classes = [str(label) for label in range(max(map(int, train_names)) + 1)]
    else:
        classes = sorted(train_names)
    label = {name: index for index, name in enumerate(classes)}
    # A .cls may end in a newline or not: each distinct content has its own entry.
    label_of = {content: label[_name(content)] for content in {*train, *val}}

    def split(tars: list[Path], index: list[Path], contents: Counter[bytes]) -> TarSplit:
        return TarSplit([*map(str, tars)], [*map(str, index)], label_of, contents)

    return Listing(
        classes,
        split(train_tars, train_index, train),
        split(val_tars, val_index, val),
        f"WebDataset tars {data} ({len(train_tars)} + {len(val_tars)})",
    )


def _name(content: bytes) -> str:
    text = content.decode("utf-8", errors="replace").strip()
    return str(int(text)) if text.isdecimal() else text


def _names(contents: Counter[bytes]) -> Counter[str]:
    names: Counter[str] = Counter()
    for content, count in contents.items():
        names[_name(content)] += count
    return names


@cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="sprout_fast_index_")


def _index(tar: Path) -> Path:
    """The index file of `tar`: the one beside it, or a fresh one in the temporary folder."""
    beside = tar.with_suffix(".idx")
    if beside.is_file() and beside.stat().st_mtime >= tar.stat().st_mtime:
        return beside
    try:
        with tarfile.open(tar) as archive:
            members = [member for member in archive if member.isfile()]
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{tar}: not a readable tar file ({error})") from error
    files = [m for m in members if not m.name.rpartition("/")[2].startswith(".")]
    if not files:
        raise UserError(f"{tar}: holds no samples")
    lines = []
    for key, members in groupby(files, key=lambda member: _split_name(member.name)[0]):
        parts = {_split_name(member.name)[1]: member for member in members}
        if "cls" not in parts or not any(ext in parts for ext in IMAGE_EXTENSIONS):
            lacks = "image" if "cls" in parts else ".cls"
            raise UserError(f"{tar}: sample {key} has no {lacks}; it holds {', '.join(parts)}")
        lines.append(
            # The index is split at white space, so a name must not contain any.
            " ".join(
                f"{ext} {m.offset_data} {m.size} {'_'.join(m.name.split())}"
                for ext, m in parts.items()
            )
        )
    number = len(list(Path(_temporary_folder().name).iterdir()))
    path = Path(_temporary_folder().name) / f"{number:06d}_{tar.stem}.idx"
    path.write_text("\n".join([f"v1.2 {len(lines)}", *lines, ""]))
    return path


def _split_name(name: str) -> tuple[str, str]:
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension


def _contents(tars: list[Path], index: list[Path]) -> Counter[bytes]:
    """How often each distinct ``.cls`` content occurs."""
    pairs = zip(map(str, tars), map(str, index), strict=True)
    return Counter(content for pair in pairs for _, content in read_components(*pair, ["cls"]))
