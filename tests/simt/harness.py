"""The kernels of one build of the harness, as functions of torch tensors on the CPU.

They do what the ops' .cu files do, from the argument structs on: the checks in front of them are
the same for both devices and are tested with the ops. So wrong values inside tensors reach the
kernels here, as they do on a GPU.
"""

from __future__ import annotations

from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import torch
from torch import Tensor

DTYPES = [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64]  # as in dtype.h
LABELS_FROM = ["dirichlet", "mean"]
BETA_GRAD = ["none", "implicit", "expected"]
REDUCTION = ["none", "mean", "sum"]


def unwritten(shape, dtype: torch.dtype, misaligned: bool = False) -> Tensor:
    """A buffer that ends where its allocation ends, filled with what no kernel writes."""
    count = torch.Size(shape).numel()
    buffer = torch.empty(count + misaligned, dtype=dtype)
    buffer.fill_(torch.nan if dtype.is_floating_point else -(2**62))
    return buffer[int(misaligned) :].view(shape)


def misaligned(t: Tensor) -> Tensor:
    """The same values and strides from an address that is no multiple of 16."""
    copy = torch.empty(t.untyped_storage().nbytes() // t.element_size() + 1, dtype=t.dtype)
    copy = copy[1:].as_strided(t.shape, t.stride(), 1)
    return copy.copy_(t)


def _address(t: Tensor | None) -> int:
    return 0 if t is None else t.data_ptr()


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


class Simt:
    def __init__(self, path: Path):
        loader = ExtensionFileLoader("_simt", str(path))
        self.module = module_from_spec(spec_from_loader("_simt", loader))
        loader.exec_module(self.module)

    def _args(self, name: str, **fields):
        args = getattr(self.module, name)()
        for field, value in fields.items():
            setattr(args, field, _address(value) if isinstance(value, Tensor | None) else value)
        return args

    def _shape(self, seed=0, grid=None, block=None):
        shape = self.module.Shape()
        shape.seed, shape.grid, shape.block = seed, grid, block
        return shape

    def draw_mixup(self, state: Tensor, batch: int, a=0.2, per_sample=False, **shape):
        partner = unwritten([batch], torch.int64)
        lam = unwritten([batch if per_sample else 1], torch.float32)
        args = self._args(
            "DrawMixupArgs", rng_state=state, partner=partner, lam=lam, batch=batch,
            lams=len(lam), per_sample=per_sample, a=a,
        )  # fmt: skip
        if max(batch, len(lam)) > 0:
            self.module.draw_mixup(args, self._shape(**shape))
        return partner, lam

    def gaussian_mixup(
        self, images, partner, lam, state, *, sigma, mean, std, noise="marginal",
        dtype=torch.float32, out_misaligned=False, **shape,
    ) -> Tensor:  # fmt: skip
        B, C, H, W = images.shape
        out = unwritten([B, H, W, C], dtype, out_misaligned)
        args = self._args(
            "GaussianMixupArgs", image_dtype=DTYPES.index(images.dtype),
            out_dtype=DTYPES.index(dtype), images=images, stride=images.stride(), partner=partner,
            lam=lam, lam_stride=int(lam is not None and len(lam) != 1), rng_state=state, out=out,
            batch=B, channels=C, height=H, width=W, noise=max(sigma) > 0, paired=noise == "paired",
            pixel_scale=1 / 255 if images.dtype == torch.uint8 else 1.0, sigma=sigma, mean=mean,
            inv_std=[1 / s for s in std],
        )  # fmt: skip
        if out.numel() > 0:
            self.module.gaussian_mixup(args, self._shape(**shape))
        return out.permute(0, 3, 1, 2)

    def gaussian_mixup_backward(self, grad, partner, lam, *, std, dtype, **shape) -> Tensor:
        B, C, H, W = grad.shape
        grad = grad.contiguous(memory_format=torch.channels_last)
        out = unwritten([B, H, W, C], dtype)
        args = self._args(
            "GaussianMixupBackwardArgs", grad_dtype=DTYPES.index(grad.dtype),
            image_dtype=DTYPES.index(dtype), grad=grad, partner=partner, lam=lam,
            lam_stride=int(lam is not None and len(lam) != 1), grad_images=out, batch=B, channels=C,
            pixels=H * W, inv_std=[1 / s for s in std],
        )  # fmt: skip
        if out.numel() > 0:
            self.module.gaussian_mixup_backward(args, self._shape(**shape))
        return out.permute(0, 3, 1, 2)

    def _sprout_args(
        self, logits, labels, partner_labels, lam, beta, state, row_stats, *, alpha=0.01, scale=1.0,
        labels_from="dirichlet", beta_grad="implicit", reduction="mean", **more,
    ):  # fmt: skip
        if labels_from == "mean" and beta_grad == "implicit":
            beta_grad = "expected"  # as prepare_sprout_loss does
        return self._args(
            "SproutLossArgs", dtype=DTYPES.index(logits.dtype), logits=logits, labels=labels,
            partner_labels=partner_labels, lam=lam,
            lam_stride=int(lam is not None and len(lam) != 1), beta=beta, rng_state=state,
            row_stats=row_stats, batch=logits.shape[0], classes=logits.shape[1], alpha=alpha,
            scale=scale, labels_from=LABELS_FROM.index(labels_from),
            beta_grad=BETA_GRAD.index(beta_grad), reduction=REDUCTION.index(reduction),
            wants_grad_beta=beta_grad != "none",
            wants_mean=labels_from == "mean" or beta_grad == "expected", **more,
        )  # fmt: skip

    def _grad_beta(self, args, classes: int, factor: float, dtype: torch.dtype, shape) -> Tensor:
        if not args.wants_grad_beta:
            return torch.empty(0)
        groups = self.module.grad_beta_groups(args.batch)
        partial = unwritten([groups, classes], dtype)
        grad_beta = unwritten([classes], torch.float32)
        self.module.sprout_loss_grad_beta(args, partial.data_ptr(), shape)
        self.module.sprout_loss_grad_beta_finish(
            args, partial.data_ptr(), groups, factor, grad_beta.data_ptr(), shape
        )
        return grad_beta

    def sprout_loss(self, logits, *rest, seed=0, rows_grid=None, **options):
        """(loss, grad_beta, row_stats), as torch.ops.sprout_fast.sprout_loss."""
        B, K = logits.shape
        dtype = accumulate_dtype(logits.dtype)
        row_stats = unwritten([B, self.module.ROW_STATS], dtype)
        args = self._sprout_args(logits, *rest, row_stats, **options)
        if B > 0:
            self.module.sprout_loss_rows(args, self._shape(seed, rows_grid))
        reduction = options.get("reduction", "mean")
        loss = unwritten([B] if reduction == "none" else [], dtype)
        self.module.sprout_loss_finish(args, loss.data_ptr(), self._shape(seed))
        factor = 1 / B if reduction == "mean" and B > 0 else 1.0
        return loss, self._grad_beta(args, K, factor, dtype, self._shape(seed)), row_stats

    def sprout_loss_backward(
        self, grad_loss, logits, *rest, row_stats, seed=0, grid=None, **options
    ):
        """(grad_logits, grad_beta), as torch.ops.sprout_fast.sprout_loss_backward."""
        B, K = logits.shape
        grad_logits = unwritten([B, K], logits.dtype)
        args = self._sprout_args(
            logits, *rest, row_stats, grad_loss=grad_loss, grad_logits=grad_logits, **options
        )
        if B > 0:
            self.module.sprout_loss_grad_logits(args, self._shape(seed, grid))
        dtype = accumulate_dtype(logits.dtype)
        return grad_logits, self._grad_beta(args, K, 1.0, dtype, self._shape(seed))
