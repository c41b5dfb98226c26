"""One tensor on another device is an error that names it, in every op that users reach.

Those of backward passes are called by autograd alone, with what the forward pass saved.
"""

import pytest
import torch

import sprout_fast  # noqa: F401  (registers the ops)

VALUES = {"float": 0.5, "int": 1, "bool": False, "str": "x"}
NAMES = sorted(
    name.removeprefix("sprout_fast::")
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith("sprout_fast::") and not name.endswith("_backward")
)


def value_of(type_name):
    optional = type_name.removeprefix("Optional[").removesuffix("]")
    if optional == "Tensor":
        return torch.zeros(2, 2)
    return [0.5] if optional.startswith("List") else VALUES[optional]


def tensors_of(name):
    arguments = getattr(torch.ops.sprout_fast, name).default._schema.arguments
    return [one.name for one in arguments if "Tensor" in str(one.type)]


CASES = [
    pytest.param(name, moved, id=f"{name}-{moved}")
    for name in NAMES
    if len(tensors_of(name)) > 1
    for moved in tensors_of(name)
]


def test_every_op_is_tried():
    assert {"sprout_loss", "dirichlet", "gaussian_mixup", "meter_step_"} <= set(NAMES)
    assert len(CASES) > 3 * len(NAMES) > 20


@pytest.mark.parametrize("name, moved", CASES)
def test_one_tensor_of_another_device_is_named(name, moved):
    op = getattr(torch.ops.sprout_fast, name).default
    arguments = {one.name: value_of(str(one.type)) for one in op._schema.arguments}
    tensors = tensors_of(name)
    arguments[moved] = arguments[moved].to("meta")
    named = tensors[1] if moved == tensors[0] else moved
    with pytest.raises(RuntimeError, match=rf"{name}: {named} must be on the device of"):
        op(**arguments)
