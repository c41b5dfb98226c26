"""Match the classes of a data set with the outputs of a network, by name."""

from __future__ import annotations

import functools
import importlib.resources
import re
from collections.abc import Sequence
from pathlib import Path

from sprout_fast.errors import UserError

_SHOWN = 3  # names listed in an error; the rest are counted


@functools.cache
def imagenet_synsets() -> tuple[str, ...]:
    """Return the WordNet ids of ImageNet-1k's classes, in the order of a network's outputs.

    >>> imagenet_synsets()[:2]
    ('n01440764', 'n01443537')
    """
    file = importlib.resources.files("sprout_fast.evaluation") / "imagenet_synsets.txt"
    return tuple(file.read_text(encoding="ascii").split())


def read_names(path: Path) -> list[str]:
    """Read the names of a network's outputs, a line each.

    A line may continue after a WordNet id, as in ImageNet's ``n01440764 tench, Tinca tinca``.

    Raises:
        UserError: the file cannot be read, or is not text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason})", option="classes") from None
    lines = [line.strip() for line in text.splitlines()]
    return [re.sub(r"^(n\d{8})\s.*", r"\1", line) for line in lines if line]


def match_outputs(classes: Sequence[str], outputs: Sequence[str]) -> list[int | None]:
    """Return the index of each class among the names of ``outputs``, or None.

    Names are compared without case, spaces, hyphens and underscores. A WordNet id of ImageNet-1k
    and torchvision's English name of that class are the same.

    >>> match_outputs(["Golden-Retriever", "n01440764", "cat"], ["tench", "golden_retriever"])
    [1, 0, None]
    """
    index: dict[str, int | None] = {}
    for number, name in enumerate(map(_canonical, outputs)):
        index[name] = None if name in index else number  # of two of a name, neither
    return [index.get(_canonical(name)) for name in classes]


def outputs_of(
    classes: Sequence[str], count: int, names: Sequence[str] | None, *, network: str
) -> tuple[list[int], list[str]]:
    """Return the output of each class, in [0, ``count``), and a name for every output.

    Args:
        classes: names of the data set's classes, in the order of its labels.
        count: number of outputs of the network.
        names: names of the outputs, if known. Default: the classes themselves if there are as many
            as outputs; ImageNet-1k's if there are 1000 outputs; else the outputs' numbers.
        network: what to call the network in an error.

    Raises:
        UserError: a class is none of the outputs, or ``names`` are not as many as outputs.

    >>> outputs_of(["n01443537", "great white shark"], 1000, None, network="resnet50")[0]
    [1, 2]
    """
    if names is not None and len(names) != count:
        raise UserError(f"has {len(names)} names, {network} has {count} outputs", option="classes")
    if names is None and len(classes) == count:
        return list(range(count)), list(classes)
    candidates = [list(map(str, range(count)))] if names is None else [list(names)]
    if names is None and count == len(imagenet_synsets()):
        candidates.insert(0, list(imagenet_synsets()))
    lacking: list[str] = []
    for named in candidates:
        found = match_outputs(classes, named)
        numbers = [number for number in found if number is not None]
        if len(numbers) == len(found):
            for number, name in zip(numbers, classes, strict=True):
                named[number] = name
            return numbers, named
        lacking = lacking or [name for name, n in zip(classes, found, strict=True) if n is None]
    shown = ", ".join(lacking[:_SHOWN])
    shown += f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
    raise UserError(
        f"required: {network} has {count} outputs, and by name none of them is the data set's "
        f"{shown}; expected a file with the name of each output on a line",
        option="classes",
    )


def _canonical(name: str) -> str:
    plain = re.sub(r"[\s_-]+", "", name).lower()
    return _synset_of_category().get(plain, plain)


@functools.cache
def _synset_of_category() -> dict[str, str]:
    try:
        from torchvision.models import ResNet50_Weights
    except ImportError:
        return {}
    categories = ResNet50_Weights.DEFAULT.meta["categories"]
    plain = [re.sub(r"[\s_-]+", "", name).lower() for name in categories]
    pairs = zip(plain, imagenet_synsets(), strict=True)
    return {name: synset for name, synset in pairs if plain.count(name) == 1}
