"""Print what verify_data, the in-memory reader and both loaders make of every kind of image file.

python tests/helpers/compare_readers.py
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.odd_images import ACCEPTED, REFUSED, SIDE, WHOLE

from sprout_fast.data import has_dali, read_images
from sprout_fast.data.verify import verify
from sprout_fast.errors import UserError

CROP = 28  # validation resizes the 32 pixels to 32 and crops 28 of them
READERS = ("memory", "torch", *["dali"] * has_dali())


class Row(NamedTuple):
    """One kind of file: what was said, and mean differences in levels of 0 to 255."""

    kind: str
    verified: str  # "read", with its conversions, or "refused: reason"
    refused_by: tuple[str, ...]  # readers
    differences: dict[str, float]  # from the in-memory reader's pixels

    @property
    def agrees(self) -> bool:
        """Whether all read the same pixels, up to 1 in the mean, or all refuse the file."""
        if self.verified.startswith("refused"):
            return self.refused_by == READERS
        return not self.refused_by and all(value <= 1 for value in self.differences.values())


def compare(folder: Path) -> Iterator[Row]:
    """Yield a row for each file, of which a data set each is made in ``folder``."""
    contents = {kind: one[0] for kind, one in (ACCEPTED | REFUSED).items()}
    for number, (kind, content) in enumerate(contents.items()):
        data = folder / str(number)
        for split in ("train", "val"):
            (data / split / "a").mkdir(parents=True)
            (data / split / "a" / "0.jpg").write_bytes(WHOLE)
            (data / split / "a" / "1.jpg").write_bytes(content)
        report = list(verify(data))[-1]
        verified = ", ".join(["read", *report.converted])
        if report.unreadable:
            verified = f"refused: {report.unreadable[0].partition('1.jpg: ')[2]}"
        pixels, refused_by = {}, []
        for reader in READERS:
            size = None if reader == "memory" else CROP
            try:
                images = read_images(data, loader=reader, image_size=size, workers=1).images
            except UserError:
                refused_by.append(reader)
                continue
            edge = (SIDE - CROP) // 2 if reader == "memory" else 0
            pixels[reader] = images[1, :, edge : edge + CROP, edge : edge + CROP].float()
        base = pixels.get("memory")
        differences = (
            {}
            if base is None
            else {reader: (image - base).abs().mean().item() for reader, image in pixels.items()}
        )
        yield Row(kind, verified, tuple(refused_by), differences)


def main() -> int:
    """Print the table; return 1 if a row does not agree."""
    with tempfile.TemporaryDirectory() as folder:
        rows = list(compare(Path(folder)))
    print(f"{'file':18} {'verify_data':64} " + " ".join(f"{reader:>8}" for reader in READERS))
    for row in rows:
        cells = (
            "refused" if reader in row.refused_by else f"{row.differences[reader]:.3f}"
            for reader in READERS
        )
        shown = " ".join(f"{cell:>8}" for cell in cells)
        print(f"{row.kind:18} {row.verified[:64]:64} {shown}" + "  DISAGREE" * (not row.agrees))
    agreeing = sum(row.agrees for row in rows)
    print(
        f"{agreeing} of {len(rows)} files agree (refused by all, or a mean difference of at most 1)"
    )
    return int(agreeing < len(rows))


if __name__ == "__main__":
    sys.exit(main())
