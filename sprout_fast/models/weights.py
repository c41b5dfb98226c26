"""Load weights files into a model: torchvision's, sprout_fast checkpoints and foreign ones."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sprout_fast.errors import UserError
from sprout_fast.models.factory import find_arch
from sprout_fast.models.torch_file import read_torch_file

_FORMAT_PREFIX = "sprout_fast.checkpoint."  # of checkpoints of any version
_SHOWN = 3  # keys listed in an error; the rest are counted
# Under these keys other projects keep a state dict, and that of the averaged weights.
_STATE_DICTS = ("state_dict", "model", "model_state_dict", "net", "network", "module", "weights")
_AVERAGED = ("state_dict_ema", "model_ema", "ema", "ema_state_dict", "ema_model")
# Added to names by torch.compile, FSDP and activation checkpointing, at any depth.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
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


def load_weights(
    model: nn.Module,
    path: str | Path,
    *,
    reset_head: bool = False,
    ema: bool = False,
    arch: str | None = None,
) -> str:
    """Load a weights file into a model, in place.

    Args:
        model: a plain model as returned by :func:`create_model`, not wrapped by
            ``DistributedDataParallel`` or ``torch.compile``.
        path: a file with a state dict, by ``torch.save`` or in safetensors' format: alone, as in
            torchvision's and timm's weights; in a sprout_fast checkpoint (its ``ema`` if it has
            one, else its ``model``); or in another checkpoint, under ``"state_dict"``, as
            Lightning's, ``"model"``, ``"model_state_dict"``, ``"net"`` or the like. A prefix of
            the model's names, such as ``module.`` (DDP), ``model.`` or ``backbone.``, is removed,
            and what the file holds beside them is left out. ``"timm"`` loads the weights that timm
            has for ``arch``.
        reset_head: if the file's classifier has another number of classes, keep the model's own
            and load everything else. A classifier that fits is always loaded.
        ema: load the averaged weights of another project's checkpoint, from ``"state_dict_ema"``
            (timm's), ``"model_ema"`` or the like.
        arch: name of the model's architecture, for ``"timm"``.

    Returns:
        One line that says what was loaded, what prefix was removed and what was left out.

    Raises:
        UserError: the file cannot be read safely, its keys or shapes do not match, or weights are
            not finite or of another kind (quantized, complex, integer, meta). The model is
            unchanged then.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/weights.pt"
    >>> state = nn.Sequential(nn.Linear(4, 1000)).state_dict(prefix="model.")
    >>> torch.save(state, path)
    >>> message = load_weights(nn.Sequential(nn.Linear(4, 10)), path, reset_head=True)
    >>> message.removeprefix(path)  # doctest: +ELLIPSIS
    ": loaded 0 tensors without the prefix 'model.'; new classifier '0' with 10 classes (...)"
    """
    content = read_weights(path, arch)
    state_dict, kind, file_arch = find_state_dict(path, content, ema=ema)
    return apply_state_dict(
        model, state_dict, reset_head=reset_head, ema=ema, name=f"{path}{kind}", file_arch=file_arch
    )


def read_weights(path: str | Path, arch: str | None, image_size: int | None = None) -> Any:
    """Return the content of a file, or, if ``path`` is ``"timm"``, timm's weights of ``arch``."""
    if str(path) != "timm":
        return read_torch_file(path)
    published = None if arch is None else find_arch(arch).published
    if published is None:
        raise UserError(f"timm: has no weights of {arch}, expected an arch timm:NAME")
    return published(image_size)


def find_state_dict(
    path: str | Path, content: Any, *, ema: bool = False
) -> tuple[Mapping[str, Tensor], str, str | None]:
    """Return the state dict in a file's content, which one it is, and the file's architecture.

    For example ``" (ema)"`` and ``"resnet50"``, or ``""`` and None if the file does not say. Raises
    ``UserError`` if there is no state dict of tensors, or none of averaged weights if ``ema``.
    """
    kind, arch, averaged = "", None, []
    if isinstance(content, Mapping):
        if str(content.get("format", "")).startswith(_FORMAT_PREFIX):
            config = content.get("config")
            arch = config.get("arch") if isinstance(config, Mapping) else None
            averaged = ["ema"] if content.get("ema") is not None else []
            key = "ema" if averaged else "model"
            content, kind = content.get(key), f" ({key})"
        else:
            held = [key for key, value in content.items() if isinstance(value, Mapping)]
            averaged = [key for key in _AVERAGED if key in held]
            plain = [key for key in _STATE_DICTS if key in held]
            order = averaged + plain if ema else plain + averaged
            if order:
                content, kind = content[order[0]], f" ({order[0]})"
    if not isinstance(content, Mapping) or not content:
        raise UserError(
            f"{path}{kind}: contains {_describe(content)}, expected a state dict of tensors"
        )
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"{path}{kind}: is not a state dict of tensors: {key!r} is {_describe(value)}"
            )
    # Averages may also be a part of the one state dict, with names of their own.
    if ema and not averaged and not any("ema" in key for key in content):
        expected = " or ".join(_AVERAGED[:2])
        raise UserError(f"{path}{kind} has no averaged weights, expected {expected}", option="ema")
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
    ema: bool = False,
    name: str,
    file_arch: str | None = None,
) -> str:
    """Check a state dict against ``model`` and load it, as :func:`load_weights` does.

    ``reset_head=None``, for callers without that option, is False. ``name`` and ``file_arch``, the
    architecture that the file contains, are for messages.
    """
    own = model.state_dict()
    state_dict, prefixes, others = _of_model(state_dict, own, ema)
    loaded = len(state_dict)
    # Files from before BatchNorm counted its batches lack the counters: keep the model's.
    for key in own:
        if key.endswith(".num_batches_tracked"):
            state_dict.setdefault(key, own[key])
    missing = [key for key in own if key not in state_dict]
    unexpected = [key for key in state_dict if key not in own]
    reshaped = _reshaped(state_dict, own)
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
            + f"; of its keys{prefixes}, {', '.join(differences)}"
        )
    _check_values(name, state_dict, own)

    message = f"{name}: loaded {loaded - len(reshaped)} tensors{prefixes}"
    if others:
        message += f", left out {len(others)} other{'s'[: len(others) > 1]} ({_some(others)})"
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
    # mnasnet rejects a state dict without its version. The keys are current, so the versions are.
    metadata = own._metadata  # pyright: ignore[reportAttributeAccessIssue]
    state_dict._metadata = metadata  # pyright: ignore[reportAttributeAccessIssue]
    model.load_state_dict(state_dict)
    return message


def count_classes(model: nn.Module, state_dict: Mapping[str, Tensor]) -> int | None:
    """Return the number of classes in a state dict; None if ``model`` has as many.

    It is also None if more than the classifier differs.
    """
    own = model.state_dict()
    found, _, _ = _of_model(state_dict, own, ema=False)
    reshaped = _reshaped(found, own)
    return found[reshaped[0]].shape[0] if _head(reshaped, found, own) is not None else None


def _reshaped(state_dict: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    return [key for key in own if key in state_dict and own[key].shape != state_dict[key].shape]


def _of_model(
    state_dict: Mapping[str, Tensor], own: Mapping[str, Tensor], ema: bool
) -> tuple[OrderedDict[str, Tensor], str, list[str]]:
    """Return what belongs to a model whose state dict is ``own``, by the model's names.

    Also returns what was removed from the names, in words, and the names of the rest, which is
    empty if nothing was removed.
    """
    has_auxiliary = any(key.startswith(_AUXILIARY) for key in own)
    wrappers = [one for one in _WRAPPERS if any(one in key for key in state_dict)]
    renamed: dict[str, str] = {}  # from a name without wrappers to the file's
    for key in state_dict:
        new = key
        for wrapper in wrappers:
            new = new.replace(wrapper, "")
        for pattern, new_name in _OLD_NAMES.items():
            new = re.sub(pattern, new_name, new)
        renamed[new] = key
    prefix = _prefix(renamed, own, ema)
    found, others = OrderedDict(), []
    for new, key in renamed.items():
        inner = new.removeprefix(prefix)
        if not new.startswith(prefix):
            # torch.optim.swa_utils.AveragedModel has a counter in addition to the model.
            others += [key] * (key != "n_averaged")
        elif has_auxiliary or not inner.startswith(_AUXILIARY):
            found[inner] = state_dict[key]
    removed = ([prefix] if prefix else []) + wrappers
    plural = "es" if len(removed) > 1 else ""
    words = f" without the prefix{plural} {', '.join(map(repr, removed))}" if removed else ""
    return found, words, others


def _prefix(names: Mapping[str, str], own: Mapping[str, Tensor], ema: bool) -> str:
    """Return the prefix with which most of the model's names are among ``names``; "" if none is.

    Of equals, which a file with several copies of a network has, it is the shortest, that of an
    average if ``ema`` and else one that is not.
    """
    keys = list(own)
    samples = {keys[0], keys[len(keys) // 2], keys[-1]} if keys else set()
    prefixes = {
        name.removesuffix(sample)
        for sample in samples
        for name in names
        if name == sample or name.endswith(f".{sample}")
    }
    return max(
        sorted(prefixes, key=len),
        key=lambda prefix: (sum(prefix + key in names for key in own), ("ema" in prefix) == ema),
        default="",
    )


def _check_values(name: str, state_dict: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise ``UserError`` for weights that are no finite floating-point numbers."""
    for key, value in state_dict.items():
        if not own[key].is_floating_point():
            continue
        kind = None
        if value.is_meta and not own[key].is_meta:
            kind = "on the meta device, without values"
        elif value.is_quantized or value.dtype not in _FLOATS:
            kind = f"of {value.dtype}"
        elif not value.is_meta and not value.isfinite().all():
            kind = (
                f"NaN or infinite in {int((~value.isfinite()).sum()):,} of {value.numel():,} places"
            )
        if kind is not None:
            raise UserError(f"{name}: {key} is {kind}; expected finite floating-point weights")


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
