"""The README's loop: SproutMixup and SproutLoss in a plain PyTorch training loop."""

import re
from pathlib import Path

import torch
from torch import nn

README = Path(__file__).parents[2] / "README.md"


def readme_loop() -> str:
    """Return the README's Python block that builds a SproutMixup, as it is printed."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (loop,) = [block for block in blocks if "SproutMixup(" in block]
    return loop


def test_readme_loop_trains():
    torch.manual_seed(0)
    # Two classes of noisy images, dark and bright, that a linear model tells apart.
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
