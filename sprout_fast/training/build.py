"""Data, method, model and optimizer of a run, put together as the options say."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel

from sprout_fast import models
from sprout_fast.data import build_loaders, make_sample_set, scan
from sprout_fast.distributed import World
from sprout_fast.errors import UserError
from sprout_fast.methods import MethodSetting, build_method
from sprout_fast.training.config import TrainConfig, parse_interval
from sprout_fast.training.graph import CapturedStep, check_capturable, side_stream
from sprout_fast.training.interrupt import Interrupt
from sprout_fast.training.loop import Trainer, steps_per_epoch
from sprout_fast.training.optim import MovingAverage, build_optimizer, build_scheduler
from sprout_fast.training.parallel import checkpoint_activations, shard
from sprout_fast.training.progress import Display
from sprout_fast.training.step import AMP_DTYPES, OptimizeStep


def build_trainer(
    config: TrainConfig,
    world: World,
    display: Display,
    checkpoint: Mapping[str, Any] | None = None,
    interrupt: Interrupt | None = None,
) -> Trainer:
    """Return the trainer for a resolved ``config``, which continues from ``checkpoint`` if given.

    Raises:
        UserError: an option, the data or a file that does not fit.
    """
    torch.manual_seed(config.seed)
    mean, std = models.default_normalization(config.arch)
    if config.normalization == "none":
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    data = _data_path(config, world, display)
    listing = scan(data)
    num_classes = len(listing.classes)
    if checkpoint is not None and checkpoint["config"].get("classes") != listing.classes:
        raise UserError(
            f"{config.resume}: its classes differ from those of {config.data}", option="resume"
        )
    setting = MethodSetting(
        num_classes=num_classes,
        mean=mean,
        std=std,
        dtype=AMP_DTYPES[config.amp] or torch.float32,
        accumulation_steps=config.accumulation_steps,
        seed=config.seed,
        first_row=world.rank * config.batch_size,
        device=world.device,
    )
    # Before the loaders, which may decode all images: a mistake in its options is reported at once.
    method = build_method(config.method, setting, **config.method_options())
    if config.cuda_graph:
        check_capturable(config, method, world)
    loaders = build_loaders(
        data,
        listing=listing,
        loader=config.loader,
        batch_size=config.batch_size,
        image_size=config.image_size,
        val_image_size=config.val_image_size,
        val_resize=config.val_resize,
        device=world.device,
        seed=config.seed,
        workers=config.workers,
        loading=config,
        augmentation=config,
        mean=mean,
        limit_train=config.limit_train,
        shard_id=world.rank,
        num_shards=world.size,
    )
    display.line(loaders.description)
    steps = steps_per_epoch(len(loaders.train), config.accumulation_steps, method.passes)
    if steps == 0:
        raise UserError(
            f"{config.accumulation_steps}: more than the {len(loaders.train)} batches per epoch",
            option="accumulation_steps",
        )
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    model = _build_model(config, num_classes, world, display)
    ema = None if config.ema is None else MovingAverage(model, config.ema, config.ema_steps)
    for module in [model, *([] if ema is None else [ema.module])]:
        if config.fsdp and world.size > 1:
            shard(module, world)
        else:
            module.to(world.device).to(memory_format=memory_format)
    if config.activation_checkpointing and not checkpoint_activations(model):
        raise UserError(
            f"{config.arch}: has no repeated blocks in a Sequential, ModuleList or ModuleDict",
            option="activation_checkpointing",
        )
    if config.val_image_size not in (None, config.image_size):
        _check_size(model, config, world)
    raw = models.Normalized(model, mean, std).to(world.device)
    wrapped, network = _wrapped(model, config, world)
    optimizer = build_optimizer(
        config.optimizer,
        model,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        norm_decay=config.norm_decay,
        layer_decay=config.layer_decay,
    )
    warmup_steps, total_steps = round(config.warmup_epochs * steps), config.epochs * steps
    optimize = OptimizeStep(
        wrapped,
        models.Normalized(network, mean, std).to(world.device),
        optimizer,
        build_scheduler(
            optimizer,
            config.schedule,
            warmup_steps=warmup_steps,
            total_steps=total_steps,
            drop_steps=config.step_epochs * steps,
            floor=config.min_lr / config.lr,
        ),
        GradScaler(world.device.type, enabled=config.amp == "fp16"),
        accumulation_steps=config.accumulation_steps,
        amp_dtype=AMP_DTYPES[config.amp],
        memory_format=memory_format,
        clip_grad=config.clip_grad,
        ema=ema,
        detect_anomaly=config.detect_anomaly,
    )
    record = {"num_classes": num_classes, "classes": list(listing.classes)}
    trainer = Trainer(
        model=model,
        evaluated=raw if ema is None else models.Normalized(ema.module, mean, std).to(world.device),
        raw=None if ema is None else raw,
        method=method,
        optimize=optimize,
        loaders=loaders,
        epochs=config.epochs,
        world=world,
        out=config.out,
        save_every=None if config.save_every is None else parse_interval(config.save_every),
        keep_every=config.keep_every,
        dist_bn=config.dist_bn,
        record=config.stored() | record | {"mean": list(mean), "std": list(std)},
        display=display,
        interrupt=interrupt or Interrupt(),
        captured=CapturedStep(method, optimize, world) if config.cuda_graph else None,
    )
    if checkpoint is not None:
        trainer.restore(checkpoint, config.resume)
    return trainer


def _data_path(config: TrainConfig, world: World, display: Display) -> Path:
    """Return ``config.data``, or the path of the sample set, which is generated if need be."""
    if config.data is not None:
        return config.data
    data = config.out.parent / "sample_set"
    if world.is_main:
        make_sample_set(data)
        display.line(
            f"no data given: training on a generated sample set of 10 classes in {data}, with a"
            " short schedule"
        )
    world.barrier()
    return data


def _build_model(
    config: TrainConfig, num_classes: int, world: World, display: Display
) -> nn.Module:
    small = f"cifar_{config.arch}"
    is_name = ":" not in config.arch
    if config.data is not None and config.image_size <= 64 and is_name and models.is_arch(small):
        display.warn(
            f"{config.arch} is torchvision's, made for large images; for {config.image_size} pixels"
            f" use {small}"
        )
    model = models.create_model(config.arch, num_classes, image_size=config.image_size)
    if world.rank:
        torch.manual_seed(config.seed + world.rank)  # dropout differs from process to process
    _zero_init_residual(model)
    if config.weights is not None:
        display.line(
            models.load_weights(
                model, config.weights, reset_head=config.reset_head, arch=config.arch
            )
        )
    if not config.sync_bn or world.size == 1:
        return model
    if world.device.type != "cuda":
        raise UserError(f"needs GPUs, got {world.device}", option="sync_bn")
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def _check_size(model: nn.Module, config: TrainConfig, world: World) -> None:
    """Find out before training whether the network accepts validation images of another size."""
    image = torch.zeros(1, 3, config.val_image_size, config.val_image_size, device=world.device)
    try:
        with models.evaluation_mode(model), torch.no_grad():
            model(image)
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{config.val_image_size}: {config.arch} does not accept it: {reason}",
            option="val_image_size",
        ) from error


def _zero_init_residual(model: nn.Module) -> None:
    """Set the scale of the last norm in each residual block of a torchvision ResNet to 0.

    Every block then starts as the identity (Goyal et al. 2017, "Accurate, Large Minibatch SGD",
    section 5.1). Without it the output's variance grows with each of ResNet-152's 50 blocks, and in
    a short schedule its loss rises to four times that of chance instead of decreasing.

    >>> from torchvision.models import resnet18
    >>> model = resnet18()
    >>> _zero_init_residual(model)
    >>> model.layer1[0].bn2.weight.abs().sum().item()
    0.0
    """
    if "torchvision.models.resnet" not in sys.modules:  # then no block is of its kind
        return
    from torchvision.models.resnet import BasicBlock, Bottleneck

    for module in model.modules():
        if isinstance(module, (BasicBlock, Bottleneck)):
            last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
            assert isinstance(last.weight, nn.Parameter)
            nn.init.zeros_(last.weight)


def _wrapped(model: nn.Module, config: TrainConfig, world: World) -> tuple[nn.Module, nn.Module]:
    """Return the model as it is trained, and as the attacks of the method see it."""

    def compiled(module: nn.Module) -> nn.Module:
        return torch.compile(module, mode=config.compile) if config.compile else module  # pyright: ignore

    network = compiled(model)
    if world.size == 1 or config.fsdp:
        return network, network
    # Each step uses the same parameters, in every method. A static graph has no no_sync(), with
    # which gradients are accumulated, and torch.compile splits the graph itself.
    static = config.accumulation_steps == 1 and not config.compile
    # A backward pass can be captured only if DistributedDataParallel was built on a side stream.
    with side_stream(world.device) if config.cuda_graph else contextlib.nullcontext():
        parallel = data_parallel(model, world, static_graph=static)
    return compiled(parallel), network


def data_parallel(model: nn.Module, world: World, *, static_graph: bool = False) -> nn.Module:
    """Return ``model`` in DistributedDataParallel; a single process gets the model itself.

    Args:
        model: on the device of ``world``.
        world: this process.
        static_graph: whether each step uses the same parameters as often.
    """
    if world.size == 1:
        return model
    ids = [world.device.index] if world.device.type == "cuda" else None
    # Each process keeps batch norm statistics of its own until validation: a broadcast before every
    # forward pass would write into what the first of two passes saved for backward.
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {name: False, "gradient_as_bucket_view": True}
    options["static_graph"] = static_graph
    return DistributedDataParallel(model, device_ids=ids, **options)
