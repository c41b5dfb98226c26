"""Weights files and checkpoints: sprout_fast's, torchvision's, others, and unusable files."""

import argparse
import copy
import pickle
import shlex
import subprocess
import sys
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models

from sprout_fast.errors import UserError
from sprout_fast.models import (
    CHECKPOINT_FORMAT,
    Normalized,
    create_model,
    load_model,
    load_weights,
    read_checkpoint,
)


def small_model(num_classes=10, width=8):
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, width, 3),
            norm=nn.BatchNorm2d(width),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            fc=nn.Linear(width, num_classes),
        )
    )


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def snapshot(model):
    return copy.deepcopy(model.state_dict())


def save(content, folder, name="weights.pt", **options):
    torch.save(content, folder / name, **options)
    return folder / name


def prefixed(state_dict, prefix):
    return {prefix + key: value for key, value in state_dict.items()}


def checkpoint(model, *, arch="squeezenet1_1", num_classes=10, ema=None):
    return {
        "format": CHECKPOINT_FORMAT,
        "model": model.state_dict(),
        "ema": ema,
        "beta": torch.ones(num_classes),
        "epoch": 3,
        "step": 12,
        "config": {
            "arch": arch,
            "num_classes": num_classes,
            "mean": [0.4, 0.5, 0.6],
            "std": [0.2, 0.25, 0.3],
        },
    }


# How the content is made of a state dict, and what the message says after "loaded 9 tensors".
FORMS = {
    "plain": (lambda state: state, ""),
    "ddp": (lambda state: prefixed(state, "module."), " without the prefix 'module.'"),
    "compiled": (lambda state: prefixed(state, "_orig_mod."), " without the prefix '_orig_mod.'"),
    "ddp of compiled": (
        lambda state: prefixed(state, "module._orig_mod."),
        " without the prefixes 'module.', '_orig_mod.'",
    ),
    "compiled ddp": (
        lambda state: prefixed(state, "_orig_mod.module."),
        " without the prefixes 'module.', '_orig_mod.'",
    ),
    "ddp twice": (
        lambda state: prefixed(state, "module.module."),
        " without the prefix 'module.module.'",
    ),
    "compiled layer": (
        lambda state: {key.replace("conv.", "conv._orig_mod."): v for key, v in state.items()},
        " without the prefix '_orig_mod.'",
    ),
    "wrapped": (
        lambda state: {"net": prefixed(state, "backbone."), "epoch": 3},
        " without the prefix 'backbone.'",
    ),
    "behind a normalization": (
        lambda state: {"0.mean": torch.zeros(3), "0.std": torch.ones(3)} | prefixed(state, "1."),
        " without the prefix '1.', left out 2 others (0.mean, 0.std)",
    ),
    "lightning": (
        lambda state: {
            "state_dict": prefixed(state, "model.") | {"loss.weight": torch.ones(3)},
            "pytorch-lightning_version": "2.5.0",
            "hyper_parameters": {"lr": 0.1},
            "optimizer_states": [{"state": {}}],
        },
        " without the prefix 'model.', left out 1 other (loss.weight)",
    ),
    "robustness library": (
        lambda state: {
            "model": prefixed(state, "module.model.") | prefixed(state, "module.attacker.model.")
        },
        " without the prefix 'module.model.', left out 9 others "
        "(module.attacker.model.conv.weight, module.attacker.model.conv.bias, "
        "module.attacker.model.norm.weight and 6 more)",
    ),
    "foreign state_dict": (
        lambda state: {"state_dict": prefixed(state, "module."), "epoch": 1},
        " without the prefix 'module.'",
    ),
    "foreign model": (lambda state: {"model": state, "optimizer": {"lr": 0.1}, "args": None}, ""),
    "model_state_dict": (lambda state: {"model_state_dict": state, "optimizer": {}}, ""),
    "averages alone": (lambda state: {"state_dict_ema": state, "epoch": 1}, ""),
    "averages and weights": (
        lambda state: {"state_dict": state, "state_dict_ema": changed(state)},
        "",
    ),
    "averages by another name": (
        lambda state: prefixed(changed(state), "ema.") | prefixed(state, "model."),
        " without the prefix 'model.', left out 9 others (ema.conv.weight, ema.conv.bias, "
        "ema.norm.weight and 6 more)",
    ),
    "averaged model": (
        lambda state: {"n_averaged": torch.tensor(4)} | prefixed(state, "module."),  # torch's
        " without the prefix 'module.'",
    ),
    "half": (
        lambda state: {k: v.half() if v.is_floating_point() else v for k, v in state.items()},
        "",
    ),
}


def changed(state_dict):
    return {key: value + 1 for key, value in state_dict.items()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("new_format", [True, False])
def test_load_weights_accepts_every_form(tmp_path, form, new_format):
    source, model = small_model(), small_model()
    make, says = FORMS[form]
    path = save(make(source.state_dict()), tmp_path, _use_new_zipfile_serialization=new_format)
    message = load_weights(model, path, reset_head=False)
    expected = source.state_dict()
    if form == "half":
        expected = {k: v.half().float() for k, v in expected.items()}
    assert same(model.state_dict(), expected)
    assert message.startswith(str(path)) and message.endswith(f": loaded 9 tensors{says}")


@pytest.mark.parametrize("form", ["averages and weights", "averages alone", "in one", "timm's"])
def test_averaged_weights_are_loaded_by_ema(tmp_path, form):
    source, model = small_model(), small_model()
    state = source.state_dict()
    content = {
        "averages and weights": {"state_dict": changed(state), "state_dict_ema": state},
        "averages alone": {"model_ema": prefixed(state, "module.")},
        "in one": prefixed(changed(state), "model.") | prefixed(state, "ema_model.module."),
        "timm's": {"arch": "x", "state_dict_ema": state, "state_dict": changed(state), "metric": 1},
    }[form]
    load_weights(model, save(content, tmp_path), ema=True)
    assert same(model.state_dict(), state)


def test_ema_needs_averaged_weights(tmp_path):
    for content in (small_model().state_dict(), checkpoint(small_model())):
        with pytest.raises(UserError, match="^ema .* has no averaged weights, expected"):
            load_weights(small_model(), save(content, tmp_path), ema=True)


def test_safetensors(tmp_path, monkeypatch):
    safetensors = pytest.importorskip("safetensors.torch")
    source, model = small_model(), small_model()
    state = {key: value.contiguous() for key, value in source.state_dict().items()}
    for name in ("model.safetensors", "renamed.pth"):
        safetensors.save_file(prefixed(state, "model."), tmp_path / name)
        load_weights(model, tmp_path / name)
        assert same(model.state_dict(), source.state_dict())
    content = (tmp_path / name).read_bytes()
    cut = write(tmp_path / "cut.safetensors", content[: len(content) // 2])
    with pytest.raises(
        UserError, match="cut.safetensors: is not a whole safetensors file"
    ) as error:
        load_weights(model, cut)
    assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(UserError, match="requires safetensors: pip install safetensors"):
        load_weights(model, tmp_path / "model.safetensors")


def quantized(weight):
    return torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)


VALUES = {
    "meta": (lambda weight: weight.to("meta"), "on the meta device, without values"),
    "quantized": (quantized, "of torch.qint8"),
    "complex": (lambda weight: weight.to(torch.complex64), "of torch.complex64"),
    "int8": (lambda weight: weight.to(torch.int8), "of torch.int8"),
    "bool": (lambda weight: weight > 0, "of torch.bool"),
    "float8": (lambda weight: weight.to(torch.float8_e4m3fn), "of torch.float8_e4m3fn"),
    "NaN": (lambda weight: weight.where(weight < weight.max(), torch.nan), "in 1 of 80 places"),
    "infinite": (lambda weight: weight / 0, "NaN or infinite in 80 of 80 places"),
}


@pytest.mark.filterwarnings("ignore")  # quantized tensors are deprecated, but their files exist
@pytest.mark.parametrize("kind", VALUES)
def test_values_that_are_no_weights(monkeypatch, kind):
    change, says = VALUES[kind]
    model = small_model()
    before, state = snapshot(model), snapshot(small_model())
    state["fc.weight"] = change(state["fc.weight"])
    monkeypatch.setattr("sprout_fast.models.weights.read_torch_file", lambda path: state)
    with pytest.raises(
        UserError, match=f"^w.pt: fc.weight is .*{says}; expected finite fl"
    ) as error:
        load_weights(model, "w.pt", reset_head=True)
    assert "\n" not in str(error.value)
    assert same(model.state_dict(), before)


@pytest.mark.parametrize("form", ["args", "whole model", "model in a dict", "numpy", "averages"])
def test_a_file_with_python_objects_says_how_to_convert_it(tmp_path, form):
    """The command in the message is run, and its output loaded."""
    source, model = small_model(), small_model()
    state, args = source.state_dict(), argparse.Namespace(lr=0.1)
    content = {
        "args": {"model": state, "args": args, "optimizer": {"state": {}, "lr": [0.1]}},
        "whole model": source,
        "model in a dict": {"net": source, "acc": 0.9},
        "numpy": {"state_dict": state, "best": np.float64(0.5)},
        "averages": {"state_dict": changed(state), "state_dict_ema": state, "args": args},
    }[form]
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    path = save(content, folder, "last.pth.tar")
    with pytest.raises(UserError, match="contains a Python object .* trust: python -c ") as error:
        load_weights(model, path)
    assert "\n" not in str(error.value)
    command = str(error.value).partition("trust: python ")[2]
    subprocess.run([sys.executable, *shlex.split(command)], check=True)
    load_weights(model, folder / "last.pth.weights.pt", ema=form == "averages")
    assert same(model.state_dict(), state)


def test_load_weights_prefers_the_ema_of_a_checkpoint(tmp_path):
    raw, ema = small_model(), small_model()
    path = save(checkpoint(raw, ema=ema.state_dict()), tmp_path)
    model = small_model()
    assert "(ema)" in load_weights(model, path)
    assert same(model.state_dict(), ema.state_dict())
    path = save(checkpoint(raw), tmp_path)
    assert "(model)" in load_weights(model, path)
    assert same(model.state_dict(), raw.state_dict())


def test_a_head_of_another_size_needs_reset_head(tmp_path):
    source, model = small_model(1000), small_model(10)
    path = save(source.state_dict(), tmp_path)
    before = snapshot(model)
    with pytest.raises(UserError, match="^reset_head needed to load") as error:
        load_weights(model, path, reset_head=False)
    for part in ("'fc'", "1000", "10", str(path)):
        assert part in str(error.value)
    assert same(model.state_dict(), before)

    message = load_weights(model, path, reset_head=True)
    assert "new classifier 'fc' with 10 classes" in message and "7 tensors" in message
    after = model.state_dict()
    for key in after:
        expected = before if key.startswith("fc.") else source.state_dict()
        assert torch.equal(after[key], expected[key]), key


def test_reset_head_loads_a_head_that_fits(tmp_path):
    source, model = small_model(), small_model()
    message = load_weights(model, save(source.state_dict(), tmp_path), reset_head=True)
    assert "new classifier" not in message
    assert same(model.state_dict(), source.state_dict())


# One architecture of each torchvision family and form of classifier.
@pytest.mark.parametrize(
    ("arch", "head"),
    [
        ("alexnet", "classifier.6"),
        ("convnext_tiny", "classifier.2"),
        ("densenet121", "classifier"),
        ("efficientnet_b0", "classifier.1"),
        ("googlenet", "fc"),
        ("inception_v3", "fc"),
        ("maxvit_t", "classifier.5"),
        ("mnasnet0_5", "classifier.1"),
        ("mobilenet_v3_small", "classifier.3"),
        ("resnet18", "fc"),
        ("shufflenet_v2_x0_5", "fc"),
        ("squeezenet1_1", "classifier.1"),
        ("swin_t", "head"),
        ("vgg11_bn", "classifier.6"),
        ("vit_b_32", "heads.head"),
    ],
)
def test_the_head_of_every_family_is_found(tmp_path, arch, head, monkeypatch):
    with torch.device("meta"):  # shapes only, without memory or time
        source, model = create_model(arch, 12), create_model(arch, 5)
    monkeypatch.setattr("sprout_fast.models.weights.read_torch_file", lambda path: content)
    content = source.state_dict()
    with pytest.raises(UserError, match=f"classifier '{head}' has 12 classes, expected 5"):
        load_weights(model, "weights.pt")


def test_keys_that_differ_are_listed_and_the_model_is_unchanged(tmp_path):
    model = small_model()
    before = snapshot(model)
    state = small_model().state_dict()
    del state["fc.bias"]
    state["extra.weight"] = torch.zeros(1)
    with pytest.raises(UserError) as error:
        load_weights(model, save(state, tmp_path), reset_head=True)
    message = str(error.value)
    assert "1 missing (fc.bias)" in message
    assert "1 unexpected (extra.weight)" in message
    assert "\n" not in message
    assert same(model.state_dict(), before)


def test_shapes_that_differ_are_listed(tmp_path):
    model = small_model(width=8)
    before = snapshot(model)
    path = save(small_model(width=6).state_dict(), tmp_path)
    with pytest.raises(UserError, match=r"conv.weight: file \[6, 3, 3, 3\], model \[8, 3, 3, 3\]"):
        load_weights(model, path, reset_head=True)
    assert same(model.state_dict(), before)


def test_a_head_with_other_inputs_is_not_reset(tmp_path):
    state = small_model().state_dict() | {
        "fc.weight": torch.zeros(12, 9),
        "fc.bias": torch.ones(12),
    }
    with pytest.raises(UserError, match=r"fc.weight: file \[12, 9\], model \[10, 8\]"):
        load_weights(small_model(), save(state, tmp_path), reset_head=True)


def test_many_keys_are_counted(tmp_path):
    state = {f"layer{i}.weight": torch.zeros(1) for i in range(50)}
    with pytest.raises(UserError, match="50 unexpected .* and 47 more") as error:
        load_weights(small_model(), save(state, tmp_path))
    assert "another architecture" in str(error.value)
    assert len(str(error.value)) < 600


def test_weights_of_another_arch_are_recognized(tmp_path):
    model = create_model("resnet18", 10)
    with torch.device("meta"):
        deeper, wider = create_model("resnet34", 10), create_model("resnet18", 10)
    wider.fc = nn.Linear(2048, 10, device="meta")
    state = {k: torch.zeros(v.shape) for k, v in deeper.state_dict().items()}
    with pytest.raises(UserError, match="looks like another architecture"):
        load_weights(model, save(state, tmp_path), reset_head=True)
    # A sprout_fast checkpoint contains the name of its architecture.
    content = checkpoint(create_model("squeezenet1_1", 10))
    with pytest.raises(UserError, match="this ResNet, it contains a squeezenet1_1"):
        load_weights(model, save(content, tmp_path))


def test_torchvision_files_with_auxiliary_heads(tmp_path):
    source = torchvision_models.get_model(
        "googlenet", num_classes=9, aux_logits=True, transform_input=True, init_weights=False
    )
    model = create_model("googlenet", 9)
    load_weights(model, save(source.state_dict(), tmp_path))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), source.eval()(images), rtol=0, atol=0)


def test_old_densenet_names_and_files_without_batch_counts(tmp_path):
    source, model = create_model("densenet121", 4), create_model("densenet121", 4)
    old = {}
    for key, value in source.state_dict().items():
        for name in ("norm1", "norm2", "conv1", "conv2"):
            if f"denselayer{key.split('denselayer')[-1].split('.')[0]}.{name}." in key:
                key = key.replace(name, f"{name[:-1]}.{name[-1]}")
        if not key.endswith("num_batches_tracked"):
            old[key] = value
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    load_weights(model, save(old, tmp_path))
    assert same(model.state_dict(), source.state_dict())


def test_old_vit_names(monkeypatch):
    with torch.device("meta"):
        source, model = create_model("vit_b_32", 4), create_model("vit_b_32", 4)
    old = {
        key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): value
        for key, value in source.state_dict().items()
    }
    assert "encoder.layers.encoder_layer_0.mlp.linear_1.weight" in old
    monkeypatch.setattr("sprout_fast.models.weights.read_torch_file", lambda path: old)
    assert f"loaded {len(old)} tensors" in load_weights(model, "vit.pth")


@pytest.mark.filterwarnings("error")
def test_modules_with_a_version_load(tmp_path):
    # mnasnet rejects a state dict whose metadata names no version.
    source, model = create_model("mnasnet0_5", 4), create_model("mnasnet0_5", 4)
    for state in (
        source.state_dict(),
        prefixed(source.state_dict(), "module."),  # a plain dict: without metadata
        nn.DataParallel(source).state_dict(),
    ):
        load_weights(model, save(state, tmp_path))
        assert same(model.state_dict(), source.state_dict())


def write(path, data):
    path.write_bytes(data)
    return path


def truncated(folder, part, **options):
    data = save(small_model().state_dict(), folder, "whole.pt", **options).read_bytes()
    return write(folder / "part.pt", data[: int(len(data) * part)])


BAD_FILES = {
    "missing": (lambda d: d / "none.pt", "no such file"),
    "folder": (lambda d: d, "is a folder"),
    "below a file": (lambda d: write(d / "f", b"x") / "none.pt", "cannot be read"),
    "empty": (lambda d: write(d / "x.pt", b""), "is empty"),
    "text": (lambda d: write(d / "x.pt", b"hello there\n" * 20), "was not written by torch.save"),
    "html": (lambda d: write(d / "x.pt", b"<!DOCTYPE html>\n<html>"), "<!DOCTYPE html>"),
    "git lfs": (lambda d: write(d / "x.pt", b"version https://git-lfs.gith\n"), "version https"),
    "bytes": (lambda d: write(d / "x.pt", bytes(range(256)) * 9), "was not written by torch.save"),
    "half a zip": (lambda d: truncated(d, 0.5), "truncated"),
    "start of a zip": (lambda d: truncated(d, 0.02), "truncated"),
    "half a legacy file": (
        lambda d: truncated(d, 0.9, _use_new_zipfile_serialization=False),
        "truncated",
    ),
    "whole model": (lambda d: save(nn.Linear(2, 2), d), r"torch\.nn\.modules\.linear\.Linear"),
    "unsafe argument": (
        lambda d: save({"model": {}, "args": argparse.Namespace(lr=1)}, d),
        r"argparse\.Namespace",
    ),
    "pickle": (
        lambda d: write(d / "x.pt", pickle.dumps({"a": d})),
        "was not written by torch.save",
    ),
    "torchscript": (lambda d: script(d), "TorchScript"),
    "tensor": (lambda d: save(torch.zeros(3), d), "contains a Tensor, expected a state dict"),
    "list": (lambda d: save([torch.zeros(3)], d), "contains a list"),
    "empty dict": (lambda d: save({}, d), "contains an empty dict"),
    "no tensors": (lambda d: save({"lr": 0.1, "epoch": 3}, d), "'lr' is a float"),
    "nested": (lambda d: save({"other": {"w": torch.zeros(1)}}, d), "'other' is a dict of w"),
    "checkpoint without weights": (
        lambda d: save({"format": CHECKPOINT_FORMAT, "config": {}}, d),
        "contains nothing",
    ),
}


def script(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, but its files still exist
        torch.jit.script(nn.Linear(2, 2)).save(folder / "script.pt")
    return folder / "script.pt"


@pytest.mark.parametrize("case", BAD_FILES)
def test_files_that_cannot_be_loaded(tmp_path, case):
    make, expected = BAD_FILES[case]
    path = make(tmp_path)
    model = small_model()
    before = snapshot(model)
    with (
        warnings.catch_warnings(record=True) as warned,
        pytest.raises(UserError, match=expected) as error,
    ):
        warnings.simplefilter("always")
        load_weights(model, path)
    assert not warned  # the user sees one line only
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert same(model.state_dict(), before)


def test_no_code_in_a_file_is_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    path = save({"model": Payload()}, tmp_path)
    for load in (lambda: load_weights(small_model(), path), lambda: load_model(path)):
        with pytest.raises(UserError, match="could run code"):
            load()
    assert not (tmp_path / "ran").exists()


def test_load_model_returns_a_plain_module_for_images_in_01(tmp_path):
    source, ema = create_model("squeezenet1_1", 10).eval(), create_model("squeezenet1_1", 10).eval()
    images = torch.rand(2, 3, 48, 48)
    record = ([0.4, 0.5, 0.6], [0.2, 0.25, 0.3])
    for content, expected in (
        (checkpoint(source), source),
        (checkpoint(source, ema=ema.state_dict()), ema),
    ):
        state = torch.random.get_rng_state()
        model = load_model(save(content, tmp_path))
        assert torch.equal(torch.random.get_rng_state(), state)
        assert isinstance(model, Normalized)
        assert not any(module.training for module in model.modules())
        with torch.no_grad():
            assert torch.equal(model(images), Normalized(expected, *record)(images))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "sprout_fast.checkpoint.v9"}, "checkpoint.v9"),
        ({"format": None}, "without a format"),
        ({"config": None}, "lacks arch, num_classes, mean, std"),
        ({"config": {"arch": "resnet18", "num_classes": 10}}, "lacks mean, std"),
        ({"model": None}, "contains nothing"),
        ({"model": {"a": torch.zeros(1)}}, "missing"),
    ],
)
def test_load_model_rejects_incomplete_checkpoints(tmp_path, change, message):
    path = save(checkpoint(create_model("squeezenet1_1", 10)) | change, tmp_path)
    with pytest.raises(UserError, match=message) as error:
        load_model(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("arch", "squeezenet9", "did you mean squeezenet"),
        ("num_classes", 11, "has 10 classes, expected 11"),
        ("mean", "imagenet", "config does not fit"),
        ("std", [0.0, 1.0, 1.0], "std > 0"),
    ],
)
def test_load_model_rejects_a_config_that_does_not_fit(tmp_path, key, value, message):
    content = checkpoint(create_model("squeezenet1_1", 10))
    content["config"][key] = value
    with pytest.raises(UserError, match=message):
        load_model(save(content, tmp_path))


def test_a_weights_file_is_not_a_checkpoint(tmp_path):
    path = save(small_model().state_dict(), tmp_path)
    for read in (read_checkpoint, load_model):
        with pytest.raises(UserError, match="expected a sprout_fast checkpoint"):
            read(path)
