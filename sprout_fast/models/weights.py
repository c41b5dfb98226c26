"""Load weights from torchvision's files, our checkpoints and foreign ones into a model."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sprout_fast.errors import UserError
from sprout_fast.models.torch_file import read_torch_file

_OUR_FORMATS = "sprout_fast.checkpoint."
_SHOWN = 3  # keys named in an error; the rest are counted
# Auxiliary classifiers of googlenet and inception_v3 in torchvision's files; create_model has none.
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
# torchvision's densenet files are older than the rule that a module's name holds no dot, its ViT
# files older than its MLP class. It renames these two while loading, and no other classifier's.
_OLD_NAMES = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"(encoder_layer_\d+\.mlp\.)linear_1\."), r"\g<1>0."),
    (re.compile(r"(encoder_layer_\d+\.mlp\.)linear_2\."), r"\g<1>3."),
)


def load_weights(model: nn.Module, path: str | Path, *, reset_head: bool = False) -> str:
    """Load a weights file into `model`, in place, and say in one line what was loaded.

    Args:
        model: the plain model (no DDP, no compile wrapper), as `create_model` gives it.
        path: a torchvision weights file, a checkpoint of ours (its `ema` where it has one, else
            its `model`), or a foreign checkpoint with a state dict under "state_dict" or "model".
            Prefixes "module." (DDP) and "_orig_mod." (torch.compile) are taken off.
        reset_head: where the file's classifier is for another number of classes, keep the model's
            own, fresh one and load everything else. A classifier that fits is loaded either way.

    Raises:
        UserError: the file cannot be read safely or does not fit. The model is unchanged then.
    """
    path = Path(path)
    content = read_torch_file(path)
    loaded, kind, arch = find_state_dict(path, content)
    return apply_state_dict(
        model, loaded, reset_head=reset_head, name=f"{path}{kind}", file_arch=arch
    )


def find_state_dict(path: str | Path, content: Any) -> tuple[Mapping[str, Tensor], str, str | None]:
    """The state dict in a file's content, which of several it is, and the arch it names."""
    kind, arch = "", None
    if isinstance(content, Mapping):
        if str(content.get("format", "")).startswith(_OUR_FORMATS):
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
        raise UserError(f"{path}{kind}: holds {_describe(content)}, takes a state dict of tensors")
    wrong = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if wrong:
        raise UserError(
            f"{path}{kind}: is not a state dict of tensors: {wrong[0]!r} is "
            f"{_describe(content[wrong[0]])}"
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
    reset_head: bool,
    name: str,
    file_arch: str | None = None,
) -> str:
    """Check `state_dict` against `model`, load it, and say in one line what was loaded.

    `name` and `file_arch` (the architecture that the file says it holds) are for the messages.
    Raises UserError, with the model unchanged, where keys or shapes differ.
    """
    state_dict = _plain_names(state_dict, model)
    own = model.state_dict()
    loaded = len(state_dict)
    # Files from before BatchNorm counted its batches lack the counters; the model's own do.
    for key in own:
        if key.endswith(".num_batches_tracked"):
            state_dict.setdefault(key, own[key])
    missing = [key for key in own if key not in state_dict]
    unexpected = [key for key in state_dict if key not in own]
    reshaped = [key for key in own if key in state_dict and own[key].shape != state_dict[key].shape]
    head = _head(reshaped, state_dict, own)

    if missing or unexpected or (reshaped and head is None):
        differences = [
            f"{len(keys)} {what} ({_some(keys)})"
            for what, keys in (
                ("keys missing", missing),
                ("keys unexpected", unexpected),
                ("of another shape", [_shapes(key, state_dict, own) for key in reshaped]),
            )
            if keys
        ]
        fitting = len(own) - len(missing) - len(reshaped)
        another = fitting < 0.9 * max(len(own), len(state_dict))
        raise UserError(
            f"{name}: does not fit this {type(model).__name__}"
            + (f", it holds a {file_arch}" if file_arch else "")
            + (", it looks like another architecture" if another and not file_arch else "")
            + f": {'; '.join(differences)}"
        )

    message = f"{name}: loaded {loaded - len(reshaped)} tensors"
    if head is not None:
        theirs, ours = state_dict[reshaped[0]].shape[0], own[reshaped[0]].shape[0]
        if not reset_head:
            raise UserError(
                f"{name}: its classifier {head!r} is for {theirs} classes, the model's for {ours}; "
                "--reset-head (reset_head=True) keeps a fresh one and loads the rest"
            )
        for key in reshaped:
            state_dict[key] = own[key]
        message += f", fresh classifier {head!r} for {ours} classes (the file's is for {theirs})"
    model.load_state_dict(state_dict)
    return message


def _plain_names(state_dict: Mapping[str, Tensor], model: nn.Module) -> OrderedDict[str, Tensor]:
    """A copy of `state_dict` under the names that a plain model of today gives."""
    # torch.optim.swa_utils.AveragedModel: a counter beside "module."-names.
    counters = {"n_averaged"} & set(state_dict)
    wrapped = all(key.startswith("module.") for key in _without_compile(state_dict) - counters)
    has_auxiliary = any(key.startswith(_AUXILIARY) for key in model.state_dict())

    def plain(key: str) -> str | None:
        key = key.replace("_orig_mod.", "")
        if wrapped:
            if key in counters:
                return None
            key = key.removeprefix("module.")
        if key.startswith(_AUXILIARY) and not has_auxiliary:
            return None
        for pattern, new_name in _OLD_NAMES:
            key = pattern.sub(new_name, key)
        return key

    renamed = OrderedDict(
        (new, value) for old, value in state_dict.items() if (new := plain(old)) is not None
    )
    # mnasnet refuses a state dict without its version. The names are today's, so the versions are.
    renamed._metadata = model.state_dict()._metadata
    return renamed


def _without_compile(keys: Mapping[str, Tensor]) -> set[str]:
    return {key.replace("_orig_mod.", "") for key in keys}


def _head(
    reshaped: list[str], theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]
) -> str | None:
    """The name of the one module whose tensors differ, and only in the number of classes.

    A classifier is the only layer that can differ alone and only in dimension 0: another width
    anywhere else would change the next layer's input too.
    """
    modules = {key.rpartition(".")[0] for key in reshaped}
    counts = {(theirs[key].shape[:1], ours[key].shape[:1]) for key in reshaped}
    same_inputs = all(
        theirs[key].ndim > 0 and theirs[key].shape[1:] == ours[key].shape[1:] for key in reshaped
    )
    return modules.pop() if len(modules) == len(counts) == 1 and same_inputs else None


def _shapes(key: str, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> str:
    return f"{key}: file {list(theirs[key].shape)}, model {list(ours[key].shape)}"


def _some(keys: list[str]) -> str:
    more = len(keys) - _SHOWN
    return ", ".join(keys[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
