"""File names: which are skipped, which are images, how to hold many, and how to show any."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

#: Extensions of image files, lower case; the same list as torchvision's.
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

# Folders that operating systems and file servers create unasked, next to those that begin with a
# dot (.ipynb_checkpoints, .cache, .Trash-0, macOS's ._NAME twins).
_SYSTEM_FOLDERS = {
    "lost+found",
    "__MACOSX",
    "@eaDir",
    "#recycle",
    "$RECYCLE.BIN",
    "System Volume Information",
}


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is not part of a data set.

    The one rule for image folders, tars and WebDataset shards. It applies to every component of a
    path below the data set's root, never to the root itself.

    >>> is_hidden(".DS_Store"), is_hidden("lost+found"), is_hidden("n01440764")
    (True, True, False)
    """
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def is_image(name: str) -> bool:
    """Return whether ``name`` has the extension of an image file, in any case.

    >>> is_image("n01440764_10026.JPEG"), is_image("labels.txt")
    (True, False)
    """
    return name.lower().endswith(IMAGE_EXTENSIONS)


def printable(name: object) -> str:
    r"""Return ``name`` in one line that every output stream can show.

    Bytes that are not UTF-8, which Python holds as lone surrogates, and control characters are
    escaped.

    >>> import os
    >>> print(printable(os.fsdecode(b"caf\xe9/a\nb.jpg")))
    caf\xe9/a\nb.jpg
    """
    text = str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class Names:
    """Many names in two arrays, a tenth of the memory of Python strings.

    Any characters, undecodable bytes included. Forked processes share the arrays, since nothing
    counts references within them.

    >>> list(Names.pack(["a", "bc"]))
    ['a', 'bc']
    """

    def __init__(self, text: np.ndarray, ends: np.ndarray) -> None:
        self.text = text  # uint8, all names one after the other, in UTF-8
        self.ends = ends  # int64 [N], where each ends

    @classmethod
    def pack(cls, names: Iterable[str]) -> Names:
        """Return ``names`` packed."""
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        text = np.frombuffer(b"".join(encoded), np.uint8)
        return cls(text, np.cumsum([len(one) for one in encoded], dtype=np.int64))

    @classmethod
    def join(cls, parts: Sequence[Names]) -> Names:
        """Return the names of all ``parts``, of which there is at least one."""
        starts = np.cumsum([0] + [len(part.text) for part in parts[:-1]])
        ends = [part.ends + start for part, start in zip(parts, starts, strict=True)]
        return cls(np.concatenate([part.text for part in parts]), np.concatenate(ends))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = self.ends[index - 1] if index else 0
        return self.text[start : self.ends[index]].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))
