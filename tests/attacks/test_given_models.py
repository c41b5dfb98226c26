"""Models as people bring them: what attacks and ``evaluate`` accept, and the one line otherwise."""

import inspect
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch import nn

import sprout_fast
from sprout_fast.attacks import ATTACKS, Attack
from sprout_fast.errors import UserError

BUDGET = {"steps": 2, "queries": 10, "binary_searches": 2, "draws": 3, "target_classes": 2}
NAMES = [name for name in ATTACKS if name not in ("autoattack", "transfer")]
IMAGES = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
Output = namedtuple("Output", ["logits", "aux_logits"])


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5)).eval()


NETWORK = network()
LABELS = NETWORK(IMAGES).argmax(1)


class Answering(nn.Module):
    """A network whose logits ``change`` turns into its output."""

    def __init__(self, change):
        super().__init__()
        self.network, self.change = NETWORK, change

    def forward(self, images):
        return self.change(self.network(images))


class Autocast(nn.Module):
    """A network that computes in half precision, as served models do."""

    def __init__(self, dtype):
        super().__init__()
        self.network, self.dtype = NETWORK, dtype

    def forward(self, images):
        with torch.autocast("cpu", dtype=self.dtype):
            return self.network(images)


def attack(name, model, images=IMAGES, labels=LABELS):
    parameters = inspect.signature(ATTACKS[name]).parameters
    options = {key: value for key, value in BUDGET.items() if key in parameters}
    return Attack(name, model, **options)(images, labels)


def evaluate(model, images=IMAGES, labels=LABELS, **options):
    return sprout_fast.evaluate(model, images, labels, eps=0.01, scale=0.01, **options)


ACCEPTED = {
    "bfloat16 logits": Autocast(torch.bfloat16),
    "float16 logits": Autocast(torch.float16),
    "bfloat16 weights": network().bfloat16(),
    "float16 weights": network().half(),
    "float64 weights": network().double(),
    "logits attribute": Answering(lambda logits: Output(logits, logits)),
    "logits key": Answering(lambda logits: {"logits": logits, "features": logits}),
    "tuple with features": Answering(lambda logits: (logits, logits[..., None], ["other"])),
    "dict of one": Answering(lambda logits: {"output": logits, "loss": None}),
    "TorchScript in a module": nn.Sequential(torch.jit.trace(NETWORK, IMAGES)),
    "compiled": torch.compile(NETWORK, backend="eager"),
}


@pytest.mark.parametrize("model", ACCEPTED.values(), ids=ACCEPTED)
def test_models_that_attacks_and_evaluate_accept(model):
    for name in NAMES:
        got = attack(name, model)
        assert got.dtype == torch.float32 and got.isfinite().all()
    assert evaluate(model).clean_accuracy > 0.8
    assert not model._forward_hooks and not model._forward_pre_hooks


REFUSED = {
    "NaN": (Answering(lambda logits: logits * torch.nan), "NaN or infinite logits for 6 of 6"),
    "infinite": (Answering(lambda logits: logits / 0), "NaN or infinite logits for 6 of 6"),
    "one class": (Answering(lambda logits: logits[:, :1]), r"outputs \[\d, 1\] for"),
    "no classes": (Answering(lambda logits: logits[:, 0]), r"outputs \[\d\] for"),
    "not flat": (Answering(lambda logits: logits[..., None]), r"outputs \[\d, 5, 1\] for"),
    "another batch": (Answering(lambda logits: logits.repeat(2, 1)), r"outputs \[\d+, 5\] for"),
    "predictions": (Answering(lambda logits: logits.argmax(1)), "of torch.int64 for"),
    "integers": (Answering(lambda logits: logits.long()), "of torch.int64 for"),
    "two candidates": (Answering(lambda logits: (logits, logits)), r"outputs \(\[\d, 5\], "),
    "dict of none": (Answering(lambda logits: {"features": logits[0]}), r"{features: \[5\]}"),
    "nothing": (Answering(lambda logits: None), "of type NoneType"),
    "a function": (lambda images: images, "got a function, expected a torch.nn.Module"),
    "TorchScript": (torch.jit.trace(NETWORK, IMAGES), r"expected a module: nn.Sequential\(model\)"),
}


@pytest.mark.parametrize(("model", "says"), REFUSED.values(), ids=REFUSED)
def test_models_that_attacks_and_evaluate_refuse(model, says):
    for call in (*(lambda n=name: attack(n, model) for name in NAMES), lambda: evaluate(model)):
        with pytest.raises(UserError, match=f"^model: .*{says}") as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_integers_below_the_number_of_classes(name):
    expected = attack(name, NETWORK)
    for dtype in (torch.int32, torch.uint8):
        assert torch.equal(attack(name, NETWORK, labels=LABELS.to(dtype)), expected)
    for labels in (LABELS + 5, LABELS - 6):
        with pytest.raises(UserError, match="labels: got values from .* expected 0 to 4 for"):
            attack(name, NETWORK, labels=labels)
    with pytest.raises(TypeError, match=f"{name}: got torch.float32 labels, expected int64"):
        attack(name, NETWORK, labels=LABELS.float())
    with pytest.raises(TypeError, match=f"{name}: got images as ndarray, expected a tensor"):
        attack(name, NETWORK, images=IMAGES.numpy())


def test_evaluate_accepts_numpy_arrays():
    expected = evaluate(NETWORK, (IMAGES * 255).byte())
    images, labels = (IMAGES * 255).byte().numpy(), LABELS.numpy().astype(np.int32)
    assert torch.equal(evaluate(NETWORK, images, labels).misclassified, expected.misclassified)
    with pytest.raises(UserError, match=r"expected \[N,C,H,W\]: images.transpose"):
        evaluate(NETWORK, np.ascontiguousarray(images.transpose(0, 2, 3, 1).repeat(2, 1)), labels)


def test_nan_on_a_single_image_is_reported():
    """Not counted as an error that an attack could have found."""

    class Sometimes(nn.Module):
        def forward(self, images):
            return NETWORK(images).masked_fill(
                (images == IMAGES[4]).all((1, 2, 3))[:, None], torch.nan
            )

    with pytest.raises(UserError, match="NaN or infinite logits for 1 of"):
        evaluate(Sometimes(), batch_size=2)


def test_the_report_names_the_network():
    class Wrap(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, images):
            return self.model(images)

    assert evaluate(Wrap(Answering(lambda logits: logits))).subject.name == (
        "a network with 197 parameters"
    )
    results = evaluate(Wrap(NETWORK), name="my network")
    assert results.subject.name == results.to_dict()["model"] == "my network"
    subject = sprout_fast.evaluation.Subject(NETWORK, "named", 5)
    assert evaluate(subject).subject.name == "named"
    assert evaluate(subject, name="renamed").subject.name == "renamed"
