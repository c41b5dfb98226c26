"""The README's snippet: SproutMixup and SproutLoss in a plain PyTorch training loop."""

import re

import torch
from helpers.paths import ROOT
from torch import nn


def readme_loop() -> str:
    """Return the README's first Python block that constructs a SproutMixup for a loader."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return next(block for block in blocks if "SproutMixup(" in block and "in loader" in block)


def test_readme_loop_trains():
    torch.manual_seed(0)
    # Two classes of noisy images, dark and bright, that a linear model separates.
    labels = torch.randint(2, (256,))
    images = (torch.rand(256, 3, 8, 8) * 200 + 50 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images, labels), batch_size=32, shuffle=True
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    scope = {"model": model, "loader": loader, "num_classes": 2, "epochs": 15, "device": "cpu"}
    code = readme_loop()
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    exec(compile(code, "README.md", "exec"), scope)

    loss_fn = scope["loss_fn"]
    fresh = type(loss_fn)(2)
    assert not torch.equal(loss_fn.beta, fresh.beta)
    mixer = scope["mixer"].eval()
    inputs, _ = mixer(images, labels)
    assert (model(inputs).argmax(1) == labels).float().mean() > 0.9
