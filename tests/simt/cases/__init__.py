"""What the harness runs, by name: each case runs kernels and compares them with the CPU op.

Cases run twice: under pytest in the ``checked`` build and, in a process with AddressSanitizer
loaded, in the ``sanitized`` one (tests/simt/jobs.py). One file per op; common.py states the
tolerances.
"""

from __future__ import annotations

import functools

import torch
from helpers.op_inputs import STATE, channel_options, mixing, random_images

from simt.cases import dirichlet as dirichlet
from simt.cases import gaussian_mixup as gaussian_mixup
from simt.cases import log_gamma as log_gamma
from simt.cases import meter_step as meter_step
from simt.cases import pgd_step as pgd_step
from simt.cases import sample_mixup as sample_mixup
from simt.cases.common import CASES as CASES
from simt.cases.common import spread
from simt.cases.generalized_cross_entropy import cross_entropy_inputs, run_cross_entropy
from simt.cases.meter_step import meter_inputs, meter_sums
from simt.cases.pgd_step import attack_inputs
from simt.cases.sprout_loss import STEP, loss_inputs, run_loss, training_state


def everything(simt, seed: int) -> list[torch.Tensor]:
    """Run every kernel in a few launches, whose bits the order of threads must not change."""
    x = random_images((5, 3, 12, 16), torch.uint8)
    partner, lam = mixing(5)
    mixed = simt.gaussian_mixup(
        x, partner, lam, STATE, **channel_options(3), noise="paired", seed=seed
    )
    others = [
        simt.gaussian_mixup(t, partner, lam, STATE, **channel_options(t.shape[1]), seed=seed)
        for t in (x.contiguous(memory_format=torch.channels_last), x[..., 1:], x[:, :2])
    ]
    grad = simt.gaussian_mixup_backward(
        mixed, partner, lam, std=[1.0] * 3, dtype=torch.float32, seed=seed
    )
    results = [*simt.sample_mixup(200, STATE, per_sample=True, seed=seed), mixed, *others, grad]
    for classes, label_mode in ((10, "sample"), (300, "sample"), (300, "mean")):
        inputs = loss_inputs(11, classes)
        results += run_loss(simt, *inputs, label_mode=label_mode, seed=seed)
    options = dict(label_mode="mean", beta_grad="none")
    results += simt.sprout_loss(*loss_inputs(1, 8193), STATE, **options, seed=seed)  # in segments
    for classes in (10, 600):
        state, step = training_state(classes), (*STEP[:5], 0.5 * classes)
        results += simt.sprout_loss_(*loss_inputs(11, classes)[:4], *state, step, seed=seed)
        results += [state[0], state[1], state[3], state[5]]
    rng = torch.tensor([4, 5])
    labels = torch.arange(300)
    results += [*simt.sample_mixup_(rng, torch.tensor([0]), labels, seed=seed), rng]
    sums = meter_sums()
    simt.meter_step_(*sums, torch.tensor(0.7), *meter_inputs(65, 129), seed=seed)
    results += sums

    a = spread((3, 301), low=-1, high=1)
    log_g = simt.log_gamma(a, STATE, seed=seed)
    results += [log_g, simt.log_gamma_backward(a, a, log_g, seed=seed)]
    z, log_total = simt.dirichlet(a, STATE, seed=seed)
    results += [z, log_total, simt.dirichlet_backward(a, a, z, log_total, seed=seed)]
    logits, target = cross_entropy_inputs(3, 301, target=torch.float32)
    results += run_cross_entropy(
        functools.partial(simt.generalized_cross_entropy, seed=seed),
        functools.partial(simt.generalized_cross_entropy_backward, seed=seed),
        logits, target, 0.1, "mean",
    )  # fmt: skip
    results.append(simt.pgd_step_(*attack_inputs((999,)), step=0.01, eps=0.03, seed=seed))
    return results
