"""The contents of a data set of any kind: found by the readers, or read from the cache."""

from __future__ import annotations

from pathlib import Path

from sprout_fast.data import listing_cache
from sprout_fast.data.listing import READERS, Listing
from sprout_fast.data.names import printable
from sprout_fast.errors import UserError


def scan(data: str | Path, *, cached: bool = True) -> Listing:
    """List a data set of any kind that a reader recognizes.

    Args:
        data: CIFAR-10 or CIFAR-100 as torchvision downloads it, WebDataset tars, a tar of an image
            folder, or an image folder.
        cached: whether to use the listing of an earlier call, if no folder or tar has changed
            since, and to keep one that took a second or more in ``$XDG_CACHE_HOME/sprout_fast``,
            by default ``~/.cache/sprout_fast``. Of the processes that torchrun started, the first
            one lists a large data set; the others wait for it and read the file that it kept.

    Raises:
        UserError: the data set is missing, empty, unreadable or inconsistent.
    """
    data = Path(data)
    return listing_cache.keep(data, lambda: _read(data)) if cached else _read(data)


def _read(data: Path) -> Listing:
    try:
        # Every tar and every folder is a tar or a folder of classes if it is nothing else.
        for name in sorted(READERS, key=lambda name: (name in ("tar", "folder"), name)):
            if (listing := READERS[name](data)) is not None:
                return listing
    except OSError as error:  # no permission, a broken mount
        where = printable(error.filename or data)
        raise UserError(f"{where}: cannot be read ({error.strerror or error})") from error
    raise UserError(f"{printable(data)}: no such folder or file")
