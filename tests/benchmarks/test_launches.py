"""The launches of a training step, and that the program's own counts are those of the sources."""

import re
from pathlib import Path

import pytest
import torch
from launches import count, finish_sums, kept_groups
from simt import build
from simt.cases.sprout_loss import loss_inputs
from simt.harness import H100_SHARED_BYTES, Simt

CUDA = Path(__file__).parents[2] / "csrc/ops/cuda"

LOSS = ("sprout_fast::sprout_loss_", "sprout_fast::sprout_loss_backward")


@pytest.mark.parametrize("batch, classes", [(128, 10), (128, 100), (256, 1000), (1024, 1000)])
@pytest.mark.parametrize("amp", [None, torch.bfloat16])
def test_a_training_step_makes_few_launches(batch, classes, amp):
    sprout, natural = (count(method, batch, classes, amp) for method in ("sprout", "natural"))
    assert sprout.total() <= 10, sprout
    assert natural.total() <= 8, natural
    assert sprout[LOSS[0]] <= 3 and sprout[LOSS[1]] == 1
    assert sprout["sprout_fast::meter_step_"] == sprout["sprout_fast::sample_mixup_"] == 1
    forbidden = {"aten::div", "aten::zeros", "aten::clone", "aten::index", "aten::copy_"}
    assert not forbidden & (sprout.keys() | natural.keys())


def test_the_counts_are_those_of_the_sources():
    """Each place that launches a kernel; another one changes ``own_launches``."""
    sites = {
        "generalized_cross_entropy": 2, "meter_step": 1, "sample_mixup": 1,
        "sprout_loss": 5,  # rows, segments of rows, gradients, their sum, finish
    }  # fmt: skip
    for op, expected in sites.items():
        assert len(re.findall("<<<", (CUDA / f"{op}.cu").read_text())) == expected, op


@pytest.mark.skipif(build.cuda_include() is None, reason="no cuda_fp16.h")
def test_the_plans_are_those_of_the_kernels():
    (module,) = build.build([("checked", None)])
    simt = Simt(module)
    for batch in (1, 64, 257):
        for classes in (1, 10, 33, 100, 1000, 4099):
            for dtype in (torch.float32, torch.bfloat16):
                logits, *rest = loss_inputs(batch, classes, dtype)
                row_stats = torch.empty(batch, simt.module.ROW_STATS)
                args = simt._sprout_args(logits, *rest, torch.tensor([0, 0, 0]), row_stats)
                plan = simt.module.sprout_loss_plan(args, H100_SHARED_BYTES)
                groups = kept_groups(batch, classes, dtype)
                assert (plan.kept_groups, plan.segments) == (groups, 1)
                sums = simt.module.sprout_loss_finish_sums_groups(groups, classes)
                assert finish_sums(groups, classes) == sums
