"""Load weights files into a model: torchvision's, sprout_fast checkpoints and foreign ones."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sprout_fast.errors import UserError
from sprout_fast.models.torch_file import read_torch_file

_FORMAT_PREFIX = "sprout_fast.checkpoint."  # of checkpoints of any version
_SHOWN = 3  # keys listed in an error; the rest are counted
# Auxiliary classifiers in torchvision's files of googlenet and inception_v3, which models from
# create_model do not have.
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
# torchvision's densenet files predate the rule that a module's name contains no dot, its ViT files
# predate its MLP class. On loading, torchvision renames the keys of these two, and no others.
_OLD_NAMES = {
    r"(denselayer\d+\.(?:norm|conv))\.([12]\.)": r"\1\2",
    r"(encoder_layer_\d+\.mlp\.)linear_1\.": r"\g<1>0.",
    r"(encoder_layer_\d+\.mlp\.)linear_2\.": r"\g<1>3.",
}


def load_weights(model: nn.Module, path: str | Path, *, reset_head: bool = False) -> str:
    """Load a weights file into a model, in place.

    Args:
        model: a plain model as returned by :func:`create_model`, not wrapped by
            ``DistributedDataParallel`` or ``torch.compile``.
        path: a torchvision weights file, a sprout_fast checkpoint (its ``ema`` if it has one, else
            its ``model``), or another checkpoint with a state dict under ``"state_dict"`` or
            ``"model"``. Prefixes ``module.`` (DDP) and ``_orig_mod.`` (torch.compile) are removed.
        reset_head: if the file's classifier has another number of classes, keep the model's own
            and load everything else. A classifier that fits is always loaded.

    Returns:
        One line that says what was loaded.

    Raises:
        UserError: the file cannot be read safely, or its keys or shapes do not match. The model is
            unchanged then.

    >>> import tempfile, torch
    >>> path = tempfile.mkdtemp() + "/weights.pt"
    >>> torch.save(nn.Sequential(nn.Linear(4, 1000)).state_dict(), path)
    >>> load_weights(nn.Sequential(nn.Linear(4, 10)), path, reset_head=True).removeprefix(path)
    ": loaded 0 tensors; new classifier '0' with 10 classes (the file's has 1000)"
    """
    state_dict, kind, arch = find_state_dict(path, read_torch_file(path))
    return apply_state_dict(
        model, state_dict, reset_head=reset_head, name=f"{path}{kind}", file_arch=arch
    )


def find_state_dict(path: str | Path, content: Any) -> tuple[Mapping[str, Tensor], str, str | None]:
    """Return the state dict in a file's content, which one it is, and the file's architecture.

    For example ``" (ema)"`` and ``"resnet50"``, or ``""`` and None if the file does not say. Raises
    ``UserError`` if there is no state dict of tensors.
    """
    kind, arch = "", None
    if isinstance(content, Mapping):
        if str(content.get("format", "")).startswith(_FORMAT_PREFIX):
            config = content.get("config")
            arch = config.get("arch") if isinstance(config, Mapping) else None
            key = "ema" if content.get("ema") is not None else "model"
            content, kind = content.get(key), f" ({key})"
        else:
            for key in ("state_dict", "model"):
                if isinstance(content.get(key), Mapping):
                    content, kind = content[key], f" ({key})"
                    break
    if not isinstance(content, Mapping) or not content:
        raise UserError(
            f"{path}{kind}: contains {_describe(content)}, expected a state dict of tensors"
        )
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"{path}{kind}: is not a state dict of tensors: {key!r} is {_describe(value)}"
            )
    return content, kind, arch


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dict of {_some([str(key) for key in value])}" if value else "an empty dict"
    return "nothing" if value is None else f"a {type(value).__name__}"


def apply_state_dict(
    model: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    reset_head: bool | None = None,
    name: str,
    file_arch: str | None = None,
) -> str:
    """Check a state dict against ``model`` and load it, as :func:`load_weights` does.

    ``reset_head=None``, for callers without that option, is False. ``name`` and ``file_arch``, the
    architecture that the file contains, are for messages.
    """
    state_dict = _plain_names(state_dict, model)
    own = model.state_dict()
    loaded = len(state_dict)
    # Files from before BatchNorm counted its batches lack the counters: keep the model's.
    for key in own:
        if key.endswith(".num_batches_tracked"):
            state_dict.setdefault(key, own[key])
    missing = [key for key in own if key not in state_dict]
    unexpected = [key for key in state_dict if key not in own]
    reshaped = [key for key in own if key in state_dict and own[key].shape != state_dict[key].shape]
    shapes = [
        f"{key}: file {list(state_dict[key].shape)}, model {list(own[key].shape)}"
        for key in reshaped
    ]
    head = _head(reshaped, state_dict, own)

    if missing or unexpected or (reshaped and head is None):
        differences = [
            f"{len(keys)} {what} ({_some(keys)})"
            for what, keys in (
                ("missing", missing),
                ("unexpected", unexpected),
                ("of another shape", shapes),
            )
            if keys
        ]
        fitting = len(own) - len(missing) - len(reshaped)
        another = fitting < 0.9 * max(len(own), len(state_dict))
        raise UserError(
            f"{name}: does not fit this {type(model).__name__}"
            + (f", it contains a {file_arch}" if file_arch else "")
            + (", it looks like another architecture" if another and not file_arch else "")
            + f"; of its keys, {', '.join(differences)}"
        )

    message = f"{name}: loaded {loaded - len(reshaped)} tensors"
    if head is not None:
        in_file, in_model = state_dict[reshaped[0]].shape[0], own[reshaped[0]].shape[0]
        if not reset_head:
            mismatch = f"{name}: its classifier {head!r} has {in_file} classes, expected {in_model}"
            if reset_head is None:
                raise UserError(mismatch)
            raise UserError(f"needed to load {mismatch}", option="reset_head")
        for key in reshaped:
            state_dict[key] = own[key]
        message += f"; new classifier {head!r} with {in_model} classes (the file's has {in_file})"
    model.load_state_dict(state_dict)
    return message


def _plain_names(state_dict: Mapping[str, Tensor], model: nn.Module) -> OrderedDict[str, Tensor]:
    """Return a copy of a state dict with the keys of a plain model in current torchvision."""
    # torch.optim.swa_utils.AveragedModel has a counter next to keys with "module.".
    counters = {"n_averaged"} & set(state_dict)
    names = {key.replace("_orig_mod.", "") for key in state_dict} - counters
    wrapped = all(key.startswith("module.") for key in names)
    has_auxiliary = any(key.startswith(_AUXILIARY) for key in model.state_dict())

    def plain(key: str) -> str | None:
        key = key.replace("_orig_mod.", "")
        if wrapped:
            if key in counters:
                return None
            key = key.removeprefix("module.")
        if key.startswith(_AUXILIARY) and not has_auxiliary:
            return None
        for pattern, new_name in _OLD_NAMES.items():
            key = re.sub(pattern, new_name, key)
        return key

    renamed = OrderedDict(
        (new, value) for old, value in state_dict.items() if (new := plain(old)) is not None
    )
    # mnasnet rejects a state dict without its version. The keys are current, so the versions are.
    metadata = model.state_dict()._metadata  # pyright: ignore[reportAttributeAccessIssue]
    renamed._metadata = metadata  # pyright: ignore[reportAttributeAccessIssue]
    return renamed


def _head(
    reshaped: list[str], in_file: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> str | None:
    """Return the name of the classifier if its number of classes is the only difference.

    A classifier is the only layer that can differ alone and only in dimension 0: another width
    anywhere else would change the next layer's input as well.
    """
    modules = {key.rpartition(".")[0] for key in reshaped}
    shapes = [(in_file[key].shape, own[key].shape) for key in reshaped]
    counts = {(file[:1], model[:1]) for file, model in shapes}
    same_inputs = all(file and file[1:] == model[1:] for file, model in shapes)
    return modules.pop() if len(modules) == len(counts) == 1 and same_inputs else None


def _some(keys: list[str]) -> str:
    more = len(keys) - _SHOWN
    return ", ".join(keys[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
