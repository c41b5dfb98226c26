"""How long a checkpoint of ResNet-152 holds up training: written at once, and in the background.

    python tests/benchmarks/checkpoint_pause.py [FOLDER]

The state is that of a run: weights, momenta and random states, 482 MB. FOLDER is where it is
written, by default a temporary one.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch

from sprout_fast.models import create_model
from sprout_fast.training.checkpoint import CheckpointWriter
from sprout_fast.training.optim import build_optimizer


def main(folder: Path, repeats: int = 5) -> None:
    """Print the pauses of ``repeats`` checkpoints each way, in seconds."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = create_model("resnet152", 1000).to(device).to(memory_format=torch.channels_last)
    optimizer = build_optimizer("sgd", model, lr=0.1, momentum=0.9, weight_decay=1e-4)
    content = {"model": model.state_dict(), "ema": None, "beta": torch.rand(1000, device=device)}
    content |= {"optimizer": optimizer.state_dict(), "step": 1}
    writer, bad_step = CheckpointWriter(folder), torch.tensor(-1, device=device)
    writer.reserve(content)
    at_once, paused = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        writer.save(content)
        at_once.append(time.perf_counter() - start)
        writer.save_in_background(content, bad_step)
        saved = writer.wait()
        assert saved is not None
        paused.append(saved.pause)
    size = (folder / "last.pt").stat().st_size / 1e6
    print(f"resnet152 on {device}, {size:.0f} MB, torch {torch.__version__}")
    for name, seconds in (("at once", at_once), ("in the background", paused)):
        rounded = ", ".join(f"{value:.2f}" for value in seconds)
        print(f"{name}: training waits {min(seconds):.2f} s at least, of {rounded}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(temporary))
