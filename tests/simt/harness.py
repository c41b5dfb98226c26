"""The kernels of one build of the harness, as functions of torch tensors on the CPU.

They do what the .cu files of the ops do, starting from the argument structs. Argument checks are
the same for both devices and are tested with the ops, so invalid values inside tensors reach the
kernels here, as they do on a GPU.
"""

from __future__ import annotations

from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import torch
from torch import Tensor

DTYPES = [
    torch.uint8,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
]  # order of Dtype in dtype.h
LABEL_MODE = ["sample", "mean"]
BETA_GRAD = ["none", "implicit", "expected"]
REDUCTION = ["none", "mean", "sum"]
H100_SHARED_BYTES = (227 << 10) - 2048  # available to a block beyond kLossOwnBytes


def unwritten(shape, dtype: torch.dtype, misaligned: bool = False) -> Tensor:
    """Return a buffer that ends with its allocation, filled with a value that no kernel writes."""
    count = torch.Size(shape).numel()
    buffer = torch.empty(count + misaligned, dtype=dtype)
    buffer.fill_(12345 if dtype.is_floating_point else -(2**62))
    return buffer[int(misaligned) :].view(shape)


def misaligned(t: Tensor) -> Tensor:
    """Return the same values and strides at an address that is not a multiple of 16."""
    copy = torch.empty(t.untyped_storage().nbytes() // t.element_size() + 1, dtype=t.dtype)
    copy = copy[1:].as_strided(t.shape, t.stride(), 1)
    return copy.copy_(t)


def _is_misaligned(t: Tensor) -> bool:
    return t.data_ptr() % 16 != 0


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

    def sample_mixup(self, batch: int, state: Tensor, mixup_alpha=0.2, per_sample=False, **shape):
        partner = unwritten([batch], torch.int64)
        lam = unwritten([batch if per_sample else 1], torch.float32)
        args = self._args(
            "SampleMixupArgs", rng_state=state, partner=partner, lam=lam, batch=batch,
            lams=len(lam), per_sample=per_sample, mixup_alpha=mixup_alpha,
        )  # fmt: skip
        if max(batch, len(lam)) > 0:
            self.module.sample_mixup(args, self._shape(**shape))
        return partner, lam

    def sample_mixup_(self, rng, first_row, labels, mixup_alpha=0.2, per_sample=False, **shape):
        """Return (partner, lam, partner_labels, used_rng), as the op does."""
        batch = len(labels)
        partner, partner_labels, used_rng = (unwritten([n], torch.int64) for n in (batch, batch, 3))
        lam = unwritten([batch if per_sample else 1], torch.float32)
        args = self._args(
            "SampleMixupArgs", rng_state=rng, first_row=first_row, partner=partner, lam=lam,
            batch=batch, lams=len(lam), per_sample=per_sample, mixup_alpha=mixup_alpha,
            labels=labels, partner_labels=partner_labels, rng=rng, used_rng=used_rng,
        )  # fmt: skip
        self.module.sample_mixup(args, self._shape(**shape))
        return partner, lam, partner_labels, used_rng

    def meter_step_(
        self, loss_sum, hits, bad_step, loss, logits, labels, partner_labels=None, lam=None, *,
        step=0, **shape,
    ) -> None:  # fmt: skip
        args = self._args(
            "MeterStepArgs", dtype=DTYPES.index(logits.dtype), logits=logits, labels=labels,
            partner_labels=partner_labels, lam=lam,
            lam_stride=int(lam is not None and len(lam) != 1), batch=logits.shape[0],
            classes=logits.shape[1], loss_dtype=DTYPES.index(loss.dtype), loss=loss,
            loss_sum=loss_sum, hits=hits, bad_step=bad_step, step=step,
        )  # fmt: skip
        self.module.meter_step(args, self._shape(**shape))

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

    def gaussian_mixup_blocks(self, shape, multiprocessors: int) -> tuple[int, int]:
        """Return the numbers of blocks per image and of images side by side."""
        sizes = dict(zip(("batch", "channels", "height", "width"), shape, strict=True))
        args = self._args("GaussianMixupArgs", **sizes)
        return tuple(self.module.gaussian_mixup_blocks(args, multiprocessors))

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
        label_mode="sample", beta_grad="implicit", reduction="mean",
        return_grad_beta=True, **more,
    ):  # fmt: skip
        if label_mode == "mean" and beta_grad == "implicit":
            beta_grad = "expected"  # as in csrc/ops/sprout_loss_call.cpp
        return self._args(
            "SproutLossArgs", dtype=DTYPES.index(logits.dtype), logits=logits, labels=labels,
            partner_labels=partner_labels, lam=lam,
            lam_stride=int(lam is not None and len(lam) != 1), beta=beta, rng_state=state,
            row_stats=row_stats, batch=logits.shape[0], classes=logits.shape[1], alpha=alpha,
            scale=scale, label_mode=LABEL_MODE.index(label_mode),
            beta_grad=BETA_GRAD.index(beta_grad), reduction=REDUCTION.index(reduction),
            wants_grad_beta=beta_grad != "none" and return_grad_beta,
            wants_mean=label_mode == "mean" or beta_grad == "expected", **more,
        )  # fmt: skip

    def _reduce_losses(self, row_stats, column: int, reduction: str, seed: int) -> Tensor:
        batch, columns = row_stats.shape
        loss = unwritten([batch] if reduction == "none" else [], row_stats.dtype)
        values = row_stats.data_ptr() + column * row_stats.element_size()
        self.module.reduce_losses(
            DTYPES.index(row_stats.dtype), values, columns, batch, REDUCTION.index(reduction),
            loss.data_ptr(), self._shape(seed),
        )  # fmt: skip
        return loss

    def _sum_grad_beta(self, args, partial: Tensor | None, factor: float, seed: int) -> Tensor:
        if partial is None:
            return torch.empty(0)
        grad_beta = unwritten([args.classes], torch.float32)
        self.module.sprout_loss_grad_beta(
            args, partial.data_ptr(), len(partial), factor, grad_beta.data_ptr(), self._shape(seed)
        )
        return grad_beta

    def _grad_groups(self, args, groups: int, dtype: torch.dtype, seed: int) -> Tensor | None:
        wants_beta = args.wants_grad_beta
        partial = unwritten([groups, args.classes], dtype) if wants_beta else None
        if args.batch > 0 and (wants_beta or args.grad_logits):
            self.module.sprout_loss_grad(args, _address(partial), self._shape(seed))
        return partial

    def _rows(self, args, row_stats: Tensor, max_shared_bytes: int, seed: int) -> Tensor | None:
        """Fill row_stats; return sums of beta's gradient over groups of rows, [groups, K]."""
        B, K, dtype = args.batch, args.classes, row_stats.dtype
        plan = self.module.sprout_loss_plan(args, max_shared_bytes)
        kept = unwritten([plan.kept_groups, K], dtype) if plan.kept_groups else None
        if B > 0:
            several = plan.segments > 1
            sums = unwritten([B, plan.segments, self.module.ROW_STATS], dtype) if several else None
            self.module.sprout_loss_rows(
                args, _address(sums), _address(kept), max_shared_bytes, self._shape(seed)
            )
            if several:
                self.module.sprout_loss_segments(
                    args, sums.data_ptr(), plan.segments, self._shape(seed)
                )
        return kept if kept is not None else self._grad_groups(args, plan.groups, dtype, seed)

    def sprout_loss(self, logits, *rest, seed=0, max_shared_bytes=H100_SHARED_BYTES, **options):
        """Return (loss, grad_beta, row_stats), as torch.ops.sprout_fast.sprout_loss does."""
        B = len(logits)
        row_stats = unwritten([B, self.module.ROW_STATS], accumulate_dtype(logits.dtype))
        args = self._sprout_args(logits, *rest, row_stats, **options)
        partial = self._rows(args, row_stats, max_shared_bytes, seed)
        reduction = options.get("reduction", "mean")
        loss = self._reduce_losses(row_stats, self.module.LOSS_STAT, reduction, seed)
        factor = 1 / B if reduction == "mean" and B > 0 else 1.0
        return loss, self._sum_grad_beta(args, partial, factor, seed), row_stats

    def sprout_loss_(
        self, logits, labels, partner_labels, lam, beta, rng, first_row, grad_sum, weight, velocity,
        lr_factor, step=(), *, seed=0, max_shared_bytes=H100_SHARED_BYTES, **options,
    ):  # fmt: skip
        """Return (loss, used_beta, used_rng, row_stats), as the op does."""
        B, K = logits.shape
        dtype = accumulate_dtype(logits.dtype)
        row_stats = unwritten([B, self.module.ROW_STATS], dtype)
        loss, used_beta = unwritten([], dtype), unwritten([K], torch.float32)
        used_rng = unwritten([3], torch.int64)
        args = self._sprout_args(
            logits, labels, partner_labels, lam, beta, rng, row_stats, first_row=first_row,
            **options,
        )  # fmt: skip
        partial = self._rows(args, row_stats, max_shared_bytes, seed)
        factor, summed = 1 / B if B else 1.0, None
        groups = 0 if partial is None else len(partial)
        if groups and not self.module.sprout_loss_finish_sums_groups(groups, K):
            summed, partial = self._sum_grad_beta(args, partial, factor, seed), None
        wants = args.wants_grad_beta
        finish = self._args(
            "SproutFinishArgs", classes=K, beta=beta, row_stats=row_stats, loss=loss, batch=B,
            rng=rng, first_row=first_row, used_rng=used_rng, used_beta=used_beta, partial=partial,
            summed=summed, groups=groups, factor=factor, weight=weight,
            grad_sum=grad_sum if wants else None, steps=bool(step) and wants, velocity=velocity,
            lr_factor=lr_factor,
        )  # fmt: skip
        finish.set_step(list(step) or [1.0] * 6)
        self.module.sprout_loss_finish(DTYPES.index(dtype), finish, self._shape(seed))
        return loss, used_beta, used_rng, row_stats

    def sprout_loss_step_(self, beta, grad_sum, velocity, lr_factor, step, seed=0) -> None:
        finish = self._args(
            "SproutFinishArgs", classes=len(beta), beta=beta, grad_sum=grad_sum, steps=True,
            velocity=velocity, lr_factor=lr_factor,
        )  # fmt: skip
        finish.set_step(list(step))
        self.module.sprout_loss_finish(DTYPES.index(torch.float32), finish, self._shape(seed))

    def sprout_loss_backward(self, grad_loss, logits, *rest, row_stats, seed=0, **options):
        """Return (grad_logits, grad_beta), as torch.ops.sprout_fast.sprout_loss_backward does."""
        grad_logits = unwritten(logits.shape, logits.dtype, _is_misaligned(logits))
        args = self._sprout_args(
            logits, *rest, row_stats, grad_loss=grad_loss, grad_logits=grad_logits, **options
        )
        groups = self.module.sprout_loss_plan(args, 0).groups
        partial = self._grad_groups(args, groups, row_stats.dtype, seed)
        return grad_logits, self._sum_grad_beta(args, partial, 1.0, seed)

    def log_gamma(self, concentration, state, seed=0) -> Tensor:
        log_g = unwritten(concentration.shape, concentration.dtype, _is_misaligned(concentration))
        args = self._args(
            "LogGammaArgs", dtype=DTYPES.index(log_g.dtype), concentration=concentration,
            rng_state=state, log_g=log_g, numel=log_g.numel(),
            elements_per_row=torch.Size(log_g.shape[1:]).numel(),
        )  # fmt: skip
        if args.numel > 0:
            self.module.log_gamma(args, self._shape(seed))
        return log_g

    def log_gamma_backward(self, grad, concentration, log_g, seed=0) -> Tensor:
        out = unwritten(grad.shape, grad.dtype, _is_misaligned(grad))
        args = self._args(
            "LogGammaBackwardArgs", dtype=DTYPES.index(grad.dtype), grad=grad,
            concentration=concentration, log_g=log_g, grad_concentration=out, numel=out.numel(),
        )  # fmt: skip
        if args.numel > 0:
            self.module.log_gamma_backward(args, self._shape(seed))
        return out

    def dirichlet(self, concentration, state, seed=0) -> tuple[Tensor, Tensor]:
        *rows, classes = concentration.shape
        z = unwritten(concentration.shape, concentration.dtype, _is_misaligned(concentration))
        log_total = unwritten(rows, z.dtype)
        args = self._args(
            "DirichletArgs", dtype=DTYPES.index(z.dtype), concentration=concentration,
            rng_state=state, z=z, log_total=log_total, rows=log_total.numel(), classes=classes,
            elements_per_row=torch.Size(z.shape[1:]).numel(),
        )  # fmt: skip
        if args.rows > 0:
            self.module.dirichlet(args, self._shape(seed))
        return z, log_total

    def dirichlet_backward(self, grad_z, concentration, z, log_total, seed=0) -> Tensor:
        out = unwritten(z.shape, z.dtype, _is_misaligned(grad_z))
        args = self._args(
            "DirichletBackwardArgs", dtype=DTYPES.index(z.dtype), grad_z=grad_z,
            concentration=concentration, z=z, log_total=log_total, grad_concentration=out,
            rows=log_total.numel(), classes=z.shape[-1],
        )  # fmt: skip
        if args.rows > 0:
            self.module.dirichlet_backward(args, self._shape(seed))
        return out

    def _cross_entropy_args(self, logits, target, smoothing, reduction, row_stats, **more):
        hard = target.dtype == torch.int64
        return self._args(
            "GeneralizedCrossEntropyArgs", dtype=DTYPES.index(logits.dtype),
            target_dtype=0 if hard else DTYPES.index(target.dtype), logits=logits,
            labels=target if hard else None, probabilities=None if hard else target,
            row_stats=row_stats, batch=logits.shape[0], classes=logits.shape[1],
            smoothing=smoothing, reduction=REDUCTION.index(reduction), **more,
        )  # fmt: skip

    def generalized_cross_entropy(self, logits, target, smoothing, reduction, seed=0):
        """Return (loss, row_stats), as torch.ops.sprout_fast.generalized_cross_entropy does."""
        row_stats = unwritten(
            [len(logits), self.module.CROSS_ENTROPY_STATS], accumulate_dtype(logits.dtype)
        )
        args = self._cross_entropy_args(logits, target, smoothing, reduction, row_stats)
        if args.batch > 0:
            self.module.generalized_cross_entropy(args, self._shape(seed))
        column = self.module.CROSS_ENTROPY_LOSS_STAT
        return self._reduce_losses(row_stats, column, reduction, seed), row_stats

    def generalized_cross_entropy_backward(
        self, grad_loss, logits, target, row_stats, smoothing, reduction, wants_target, seed=0
    ):
        """Return (grad_logits, grad_target), the latter [0] if not requested."""
        grad_logits = unwritten(logits.shape, logits.dtype, _is_misaligned(logits))
        shape = target.shape if wants_target else [0]
        grad_target = unwritten(shape, target.dtype, _is_misaligned(target))
        args = self._cross_entropy_args(
            logits, target, smoothing, reduction, row_stats, grad_loss=grad_loss,
            grad_logits=grad_logits, grad_target=grad_target if wants_target else None,
        )  # fmt: skip
        if args.batch > 0:
            self.module.generalized_cross_entropy_backward(args, self._shape(seed))
        return grad_logits, grad_target

    def pgd_step_(self, x_adv, grad, x, *, step, eps, lower=0.0, upper=1.0, seed=0) -> Tensor:
        """Take a step in place: dense tensors of one layout, or any strides of up to 12 dims."""
        tensors = (x_adv, grad, x)
        flat = x_adv.dim() == 0 or all(t.is_contiguous() for t in tensors)
        args = self._args(
            "PgdStepArgs", dtype=DTYPES.index(x.dtype), grad_dtype=DTYPES.index(grad.dtype),
            x_adv=x_adv, grad=grad, x=x, numel=x.numel(), dims=1 if flat else x.dim(),
            size=[x.numel()] if flat else list(x.shape), step=step, eps=eps, lower=lower,
            upper=upper,
        )  # fmt: skip
        for i, t in enumerate(tensors):
            args.set_strides(i, [1] if flat else t.stride())
        if args.numel > 0:
            self.module.pgd_step(args, self._shape(seed))
        return x_adv
