"""Our checkpoints as models that any attack library can take."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sprout_fast.errors import UserError
from sprout_fast.models.factory import create_model
from sprout_fast.models.normalized import Normalized
from sprout_fast.models.torch_file import read_torch_file
from sprout_fast.models.weights import apply_state_dict, find_state_dict

CHECKPOINT_FORMAT = "sprout_fast.checkpoint.v1"


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's dict, on the CPU, read safely.

    Raises:
        UserError: the file cannot be read safely, or its `format` is not CHECKPOINT_FORMAT.
    """
    content = read_torch_file(path)
    found = content.get("format") if isinstance(content, Mapping) else None
    if found != CHECKPOINT_FORMAT:
        got = f"format {found!r}" if found is not None else "a file without a format"
        raise UserError(
            f"{path}: got {got}, takes a checkpoint of sprout_fast ({CHECKPOINT_FORMAT})"
        )
    return content


def load_model(path: str | Path, device: str | torch.device = "cpu") -> Normalized:
    """The model in a checkpoint of ours, in eval mode: images in [0,1] in, logits out.

    It uses the checkpoint's `ema` where there is one, else its `model`, and of its config only
    `arch`, `num_classes`, `mean` and `std` (`image_size` where it is given). The global random
    state is left as it was.

    Args:
        path: `last.pt` or `best.pt` of a run.
        device: where the model goes.

    Returns:
        a plain nn.Module: floating [B,3,H,W] in [0,1] -> logits [B,num_classes].

    Raises:
        UserError: not a checkpoint of ours, or one whose parts do not fit together.

    ::

        model = sprout_fast.load_model("run/best.pt", "cuda")
        predictions = model(images.float() / 255).argmax(1)
    """
    content = read_checkpoint(path)
    config = content.get("config")
    wanted = ("arch", "num_classes", "mean", "std")
    lacking = [key for key in wanted if not isinstance(config, Mapping) or key not in config]
    if lacking:
        raise UserError(f"{path}: its config lacks {', '.join(lacking)}")
    state_dict, kind, arch = find_state_dict(path, content)
    try:
        with torch.random.fork_rng(devices=[]):  # the fresh weights are thrown away
            model = create_model(
                config["arch"], config["num_classes"], image_size=config.get("image_size")
            )
        apply_state_dict(model, state_dict, reset_head=False, name=f"{path}{kind}", file_arch=arch)
        wrapped = Normalized(model, config["mean"], config["std"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: its config does not fit: {error}") from error
    return wrapped.to(device).eval()
