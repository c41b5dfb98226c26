"""Load sprout_fast checkpoints as models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sprout_fast.errors import UserError
from sprout_fast.models.factory import create_model, is_code
from sprout_fast.models.normalized import Normalized
from sprout_fast.models.torch_file import read_torch_file
from sprout_fast.models.weights import apply_state_dict, find_state_dict

CHECKPOINT_FORMAT = "sprout_fast.checkpoint.v1"


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint, ``last.pt`` or ``best.pt``, with tensors on the CPU.

    It is read with ``weights_only=True``, so nothing in the file is run.

    Returns:
        A dict with the keys ``format``, ``model``, ``ema``, ``config``, ``epoch`` and the state of
        training.

    Raises:
        UserError: the file cannot be read, or its ``format`` is not ``CHECKPOINT_FORMAT``.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/last.pt"
    >>> torch.save({"format": CHECKPOINT_FORMAT, "epoch": 3}, path)
    >>> read_checkpoint(path)["epoch"]
    3
    """
    content = read_torch_file(path)
    found = content.get("format") if isinstance(content, dict) else None
    if found != CHECKPOINT_FORMAT:
        got = "a file without a format" if found is None else f"format {found!r}"
        raise UserError(
            f"{path}: got {got}, expected a sprout_fast checkpoint ({CHECKPOINT_FORMAT})"
        )
    return content


def load_model(
    path: str | Path, device: str | torch.device = "cpu", *, arch: str | None = None
) -> Normalized:
    """Load the model of a sprout_fast checkpoint in eval mode.

    It has the averaged weights (``ema``) if the checkpoint has any, else those of ``model``. Of the
    config it uses ``arch``, ``num_classes``, ``mean``, ``std`` and, if given, ``classes`` and
    ``image_size`` or ``val_image_size``. The global random state is not changed.

    Args:
        path: ``last.pt`` or ``best.pt`` of a training run.
        device: device of the model.
        arch: required to be the checkpoint's for a network ``package.module:function``, so that no
            file chooses which code is imported.

    Returns:
        A plain ``nn.Module`` that maps floating images [B, 3, H, W] in [0, 1] to logits
        [B, num_classes], for any attack library. Its ``classes`` are the names of the outputs.

    Raises:
        UserError: not a sprout_fast checkpoint, or one whose parts do not match.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/best.pt"
    >>> config = {"arch": "cifar_resnet8", "num_classes": 10, "mean": [0.5] * 3, "std": [0.25] * 3}
    >>> weights = create_model("cifar_resnet8", 10).state_dict()
    >>> torch.save({"format": CHECKPOINT_FORMAT, "model": weights, "config": config}, path)
    >>> model = load_model(path)
    >>> model(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    content = read_checkpoint(path)
    config = content.get("config")
    config = config if isinstance(config, Mapping) else {}
    missing = [key for key in ("arch", "num_classes", "mean", "std") if key not in config]
    if missing:
        raise UserError(f"{path}: its config lacks {', '.join(missing)}")
    if is_code(config["arch"]) and config["arch"] != arch:
        raise UserError(
            f"required to be {config['arch']!r}, the network of {path}, whose code would be "
            "imported",
            option="arch",
        )
    state_dict, kind, file_arch = find_state_dict(path, content)
    try:
        with torch.random.fork_rng(devices=[]):  # the initial weights are replaced
            model = create_model(
                config["arch"], config["num_classes"], image_size=config.get("image_size")
            )
        wrapped = Normalized(model, config["mean"], config["std"])
        wrapped.classes = list(config["classes"]) if config.get("classes") else None
        wrapped.image_size = config.get("val_image_size") or config.get("image_size")
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: its config does not fit: {error}") from error
    apply_state_dict(model, state_dict, name=f"{path}{kind}", file_arch=file_arch)
    return wrapped.to(device).eval()
