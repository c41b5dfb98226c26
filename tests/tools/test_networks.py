"""Networks that people bring, from the command line: trained, resumed, loaded and evaluated."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from helpers.image_files import noise_image, write_folder

from sprout_fast.data import read_image, read_images
from sprout_fast.errors import UserError
from sprout_fast.evaluation.command import main as evaluate
from sprout_fast.models import create_model, load_model, read_checkpoint
from sprout_fast.training.command import train_imagenet

CLASSES = ["n01440764", "n02099601", "n02123045"]  # outputs 0, 207 and 281 of ImageNet's 1000

FUNCTIONS = """
from torch import nn

def small(num_classes):
    pool = nn.AdaptiveAvgPool2d(4)
    return nn.Sequential(pool, nn.Flatten(), nn.Linear(48, num_classes))

def without_argument():
    return small(3)

def no_module(num_classes):
    return "a network"

small.mean, small.std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {"train": dict.fromkeys(CLASSES, 4), "val": dict.fromkeys(CLASSES, 2)}
    return write_folder(
        tmp_path_factory.mktemp("images"), counts, lambda number: noise_image(number, (40, 36))
    )


@pytest.fixture
def functions(tmp_path, monkeypatch):
    """A module in the working directory; its name."""
    (tmp_path / "my_networks.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    return "my_networks"


def train(data, out, *options):
    small = "--image-size 32 --batch-size 4 --epochs 2 --lr 0.01 --workers 1 --loader torch"
    arguments = [*small.split(), "--final-attack-images", "0", "--out", str(out)]
    return train_imagenet(["--data", str(data), *arguments, *options])


def evaluated(*options, out):
    arguments = ["--scale", "0.001", "--loader", "torch", "--image-size", "32", "--out", str(out)]
    status = evaluate([*arguments, *map(str, options)])
    return json.loads((out / "results.json").read_text()) if status == 0 else status


@pytest.mark.parametrize("arch", ["timm:test_convnext", "timm:test_vit", "my_networks:small"])
def test_train_resume_load_evaluate(functions, data, tmp_path, arch, capsys):
    if arch.startswith("timm:"):
        pytest.importorskip("timm")
    out, allowed = tmp_path / "run", ["--arch", arch] if arch.startswith("my") else []
    assert train(data, out, "--arch", arch, "--max-steps", "3") == 0
    assert train_imagenet(["--resume", str(out / "last.pt"), *allowed]) == 0
    assert read_checkpoint(out / "last.pt")["epoch"] == 2

    model = load_model(out / "last.pt", arch=arch if allowed else None)
    assert model.classes == CLASSES and model.image_size == 32
    images = read_images(data, loader="torch", image_size=32).images / 255
    assert model(images).shape == (6, 3)
    if arch == "my_networks:small":
        assert model.mean.flatten().tolist() == [0.5, 0.5, 0.5]

    results = evaluated("--checkpoint", out / "last.pt", *allowed, out=tmp_path / "evaluation")
    expected = model(images).argmax(1).tolist()
    assert results["per_image"]["label"] == [0, 0, 1, 1, 2, 2]
    assert results["verdict"]["clean_accuracy"] == pytest.approx(
        sum(a == b for a, b in zip(expected, [0, 0, 1, 1, 2, 2], strict=True)) / 6
    )


def test_a_prediction_on_ones_own_image(data, tmp_path):
    """The line of docs/train.md."""
    assert train(data, tmp_path, "--arch", "resnet18", "--max-steps", "1") == 0
    model = load_model(tmp_path / "last.pt")
    path = data / "val" / CLASSES[0] / "000.jpg"
    name = model.classes[model(read_image(path, model.image_size)).argmax()]
    images = read_images(data, loader="torch", image_size=32).images
    assert torch.equal(read_image(path, 32)[0], images[0] / 255)
    assert name == CLASSES[model(images[:1] / 255).argmax()]
    with pytest.raises(UserError, match="^.*missing.jpg: cannot be read"):
        read_image(tmp_path / "missing.jpg", 32)


def test_no_checkpoint_decides_which_code_is_imported(functions, data, tmp_path, capsys):
    out, arch = tmp_path / "run", f"{functions}:small"
    assert train(data, out, "--arch", arch, "--max-steps", "1") == 0
    del sys.modules[functions]
    with pytest.raises(UserError, match=f"^arch required to be '{arch}'"):
        load_model(out / "last.pt")
    capsys.readouterr()
    for command in (
        lambda: train_imagenet(["--resume", str(out / "last.pt")]),
        lambda: evaluate(["--checkpoint", str(out / "last.pt")]),
    ):
        assert command() == 2
        error = capsys.readouterr().err
        assert arch in error and error.count("\n") == 1
    assert functions not in sys.modules


@pytest.mark.parametrize(
    ("arch", "says"),
    [
        ("my_networks:smal", "my_networks has no function 'smal'; did you mean small?"),
        ("my_networks:without_argument", "cannot be called with num_classes=3: "),
        ("my_networks:no_module", "returned a str, expected a torch.nn.Module"),
        ("no_such_package:small", "no_such_package cannot be imported: No module named"),
        ("timm:convnxt_tiny", "timm has no such network; did you mean convnext_tiny?"),
        ("resnet5O", "package.module:function (which returns a network of num_classes classes)"),
    ],
)
def test_networks_that_do_not_exist(functions, data, tmp_path, capsys, arch, says):
    assert train(data, tmp_path / "run", "--arch", arch) == 2
    error = capsys.readouterr().err
    assert f"--arch {arch}: " in error and says in error and error.count("\n") == 1


def test_timm_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    from sprout_fast.models.families import timm as family

    family._timm.cache_clear()
    with pytest.raises(UserError, match="^arch timm:NAME requires timm, .* pip install timm"):
        create_model("timm:convnext_tiny", 10)


def test_help_says_which_networks(capsys):
    for command in (train_imagenet, evaluate):
        with pytest.raises(SystemExit):
            command(["--help"])
        text = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert "package.module:function" in text and "timm:" in text


@pytest.fixture
def thousand():
    """A network of timm's with 1000 outputs; its state dict."""
    pytest.importorskip("timm")
    torch.manual_seed(0)
    return create_model("timm:test_resnet", 1000)


def test_a_1000_class_network_on_three_classes(thousand, data, tmp_path, capsys):
    """From a file as timm writes it, with averaged weights."""
    other = create_model("timm:test_resnet", 1000)
    state = {f"module.{key}": value for key, value in thousand.state_dict().items()}
    content = {"state_dict": other.state_dict(), "state_dict_ema": state, "arch": "test_resnet"}
    torch.save(content, tmp_path / "model_best.pth.tar")
    options = ["--checkpoint", tmp_path / "model_best.pth.tar", "--arch", "timm:test_resnet"]
    results = evaluated(*options, "--data", data, "--ema", "--name", "mine", out=tmp_path / "one")
    printed = capsys.readouterr().out
    assert "(state_dict_ema): loaded" in printed and "without the prefix 'module.'" in printed
    assert "3 of the network's 1,000 outputs are classes here" in printed
    assert results["per_image"]["label"] == [0, 0, 207, 207, 281, 281]
    assert results["model"] == "mine"
    assert "Robustness of mine" in (tmp_path / "one" / "report.html").read_text()

    # The same classes under other names, and in another order.
    renamed = {"train": {"dog": 1, "fish": 1}, "val": {"dog": 1, "fish": 1}}
    folder = write_folder(tmp_path / "renamed", renamed, lambda n: noise_image(n, (40, 36)))
    assert evaluated(*options, "--data", folder, out=tmp_path / "two") == 2
    assert "--classes required: " in capsys.readouterr().err
    names = [f"class {number}" for number in range(1000)]
    names[207], names[0] = "dog", "fish"
    (tmp_path / "names.txt").write_text("\n".join(names))
    options += ["--classes", tmp_path / "names.txt"]
    results = evaluated(*options, "--data", folder, out=tmp_path / "two")
    assert results["per_image"]["label"] == [207, 0]


def test_a_checkpoint_on_a_folder_of_some_of_its_classes(data, tmp_path, capsys):
    assert train(data, tmp_path / "run", "--arch", "resnet18", "--max-steps", "1") == 0
    counts = {"train": {CLASSES[2]: 1}, "val": {CLASSES[2]: 2}}
    folder = write_folder(tmp_path / "some", counts, lambda n: noise_image(n, (40, 36)))
    options = ["--checkpoint", tmp_path / "run" / "last.pt", "--data", folder]
    results = evaluated(*options, out=tmp_path / "evaluation")
    assert results["per_image"]["label"] == [2, 2]


def test_weights_of_timms_own_loader(data, tmp_path, monkeypatch, capsys):
    timm = pytest.importorskip("timm")
    create = timm.create_model

    def offline(name, pretrained=False, **options):
        torch.manual_seed(7)
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    arguments = ["--arch", "timm:test_resnet", "--weights", "timm", "--reset-head"]
    assert train(data, tmp_path / "run", *arguments, "--max-steps", "1") == 0
    assert "timm: loaded " in capsys.readouterr().out
    options = ["--checkpoint", "timm", "--arch", "timm:test_resnet", "--data", data]
    results = evaluated(*options, out=tmp_path / "evaluation")
    assert results["per_image"]["label"] == [0, 0, 207, 207, 281, 281]
    assert train(data, tmp_path / "run2", "--arch", "resnet18", "--weights", "timm") == 2
    assert "timm: has no weights of resnet18" in capsys.readouterr().err

    def fails(*args, **options):
        if options.pop("pretrained", False):
            raise RuntimeError("no\nconnection")
        return create(*args, **options)

    monkeypatch.setattr(timm, "create_model", fails)
    assert train(data, tmp_path / "run3", *arguments) == 2
    error = capsys.readouterr().err
    assert "weights of test_resnet cannot be loaded: no connection" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("arch", ["vit_b_32", "swin_v2_t", "maxvit_t"])
def test_torchvisions_transformers_are_loaded(tmp_path, arch):
    size = {"vit_b_32": 64, "swin_v2_t": 256, "maxvit_t": 224}[arch]
    with torch.device("meta"):
        model = create_model(arch, 4, image_size=size)
    state = {
        key: torch.zeros(value.shape, dtype=value.dtype)
        for key, value in model.state_dict().items()
    }
    config = {
        "arch": arch,
        "num_classes": 4,
        "image_size": size,
        "mean": [0.5] * 3,
        "std": [1.0] * 3,
    }
    content = {"format": "sprout_fast.checkpoint.v1", "model": state, "config": config}
    torch.save(content, tmp_path / "last.pt")
    with torch.no_grad():
        assert load_model(tmp_path / "last.pt")(torch.rand(1, 3, size, size)).shape == (1, 4)
