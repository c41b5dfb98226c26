"""Each method learns from real images, if CIFAR-10 is available.

tests/benchmarks/learning.py measures it at length; docs/methods.md holds what came out.
"""

from __future__ import annotations

import tarfile
from collections import Counter
from pathlib import Path

import pytest
from helpers.logged import assert_logged_is_measured
from helpers.paths import CIFAR_TAR

from sprout_fast.methods import METHODS
from sprout_fast.models import read_checkpoint
from sprout_fast.training.config import CifarConfig
from sprout_fast.training.run import train

pytestmark = pytest.mark.skipif(
    not CIFAR_TAR.is_file(), reason="needs CIFAR-10 as images: SPROUT_FAST_CIFAR=cifar10_images.tar"
)


@pytest.fixture(scope="module")
def few_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 training and 50 test images of each class."""
    root = tmp_path_factory.mktemp("cifar")
    seen: Counter[Path] = Counter()
    with tarfile.open(CIFAR_TAR) as tar:
        for member in tar:
            folder = Path(member.name).parent
            wanted = 100 if folder.parent.name == "train" else 50
            if member.isfile() and seen[folder] < wanted:
                seen[folder] += 1
                tar.extract(member, root, filter="data")
    assert sum(seen.values()) == 1500
    return next(root.rglob("train")).parent


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns(few_images: Path, tmp_path: Path, method: str) -> None:
    cheaper = {"pgd_at": {"attack_steps": 3}, "trades": {"attack_steps": 3}}
    config = CifarConfig(
        arch="cifar_resnet8",
        data=few_images,
        method=method,
        epochs=1 if method == "free_at" else 2,
        batch_size=50,
        lr=0.1,
        ema=0.9,
        final_attack_images=0,
        out=tmp_path / "run",
        **cheaper.get(method, {}),
    )
    assert train(config) == 0
    assert_logged_is_measured(tmp_path / "run", few_images)
    # Chance is 0.1, on 500 images with a standard deviation of 0.013.
    assert read_checkpoint(tmp_path / "run" / "last.pt")["best_top1"] > 0.14
