"""Evaluate a checkpoint or a weights file on a data set, and write results and report."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sprout_fast.data import default_loader
from sprout_fast.data.preprocessing import Preprocessing
from sprout_fast.data.validation import Images, read_images
from sprout_fast.distributed import World, joined_world
from sprout_fast.errors import UserError
from sprout_fast.evaluation.config import EvaluateConfig
from sprout_fast.evaluation.corruptions import open_corruptions
from sprout_fast.evaluation.outputs import outputs_of, read_names
from sprout_fast.evaluation.protocols import SMALL_IMAGE
from sprout_fast.evaluation.recorder import PrintProgress
from sprout_fast.evaluation.report.html import write_report
from sprout_fast.evaluation.results import Results
from sprout_fast.evaluation.run import evaluate
from sprout_fast.evaluation.subject import Subject
from sprout_fast.models import (
    CHECKPOINT_FORMAT,
    Normalized,
    create_model,
    default_normalization,
    load_model,
)
from sprout_fast.models.factory import find_arch
from sprout_fast.models.weights import (
    apply_state_dict,
    count_classes,
    find_state_dict,
    read_weights,
)

# The usual eps of benchmarks, by norm: for CIFAR's images and for ImageNet's.
DEFAULT_EPS = {"linf": (8 / 255, 4 / 255), "l2": (0.5, 3.0), "l1": (12.0, 60.0)}


def evaluate_checkpoint(config: EvaluateConfig) -> Results:
    """Load a model and images, measure, print the progress, and write results and report.

    Of several processes that torchrun started, the first prints and writes.

    Raises:
        UserError: a file that cannot be read, or options that do not fit it.
        KeyboardInterrupt: after Ctrl-C; the results so far are kept in the output folder.
    """
    with joined_world(config.device) as world, contextlib.ExitStack() as stack:
        if not world.is_main:
            silence = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(silence))
        return _evaluate(config, world)


def _evaluate(config: EvaluateConfig, world: World) -> Results:
    device = world.device
    content = read_weights(config.checkpoint, config.arch, config.image_size)
    is_checkpoint = isinstance(content, Mapping) and content.get("format") == CHECKPOINT_FORMAT
    training: dict[str, Any] = dict(content["config"]) if is_checkpoint else {}
    arch = training.get("arch") or config.arch
    if arch is None:
        raise UserError(
            f"required, e.g. resnet50, since {config.checkpoint} is not a sprout_fast checkpoint; "
            "timm:NAME for timm's networks, package.module:function for any other",
            option="arch",
        )
    if is_checkpoint and config.arch not in (None, arch):
        raise UserError(f"{config.arch}: {config.checkpoint} is a {arch}", option="arch")
    data = config.data or (Path(training["data"]) if training.get("data") else None)
    if data is None:
        raise UserError("required: a folder or tar of images", option="data")
    # A cifar_* network that was trained on files of several sizes is evaluated on them too.
    in_memory = training.get("loader", "memory" if arch.startswith("cifar_") else "") == "memory"
    # A checkpoint's network may be code, which load_model imports only if the user named it.
    own_size = training.get("val_image_size") or training.get("image_size")
    own_size = own_size or (224 if is_checkpoint else find_arch(arch).image_size)
    crop = config.image_size or own_size
    resize = config.resize or (training.get("val_resize") if crop == own_size else None)
    preprocessing = Preprocessing(crop, resize, config.interpolation, config.antialias)
    loader = config.loader or ("memory" if in_memory else default_loader())
    chosen = preprocessing != Preprocessing(crop)
    if chosen and loader == "memory":
        raise UserError(f"{loader}: uses images as they are, without a resize", option="loader")
    # Before the images, which can take minutes to read.
    surrogate = None
    if config.surrogate is not None:
        surrogate = load_model(config.surrogate, device, arch=config.arch)
    names = None if config.classes is None else read_names(config.classes)
    found = read_images(
        data,
        loader=loader,
        image_size=crop,
        limit=config.limit,
        workers=config.workers,
        preprocessing=preprocessing if chosen else None,
    )
    print(found.description)
    if is_checkpoint:
        subject = _checkpoint_subject(config, content)
        names = names or training.get("classes")
    else:
        subject = _weights_subject(config, content, arch, found)
    subject.model.to(device).eval()
    subject.name = config.name or subject.name
    outputs, subject.class_names = outputs_of(
        found.classes, subject.num_classes, names, network=str(config.checkpoint)
    )
    if len(outputs) < subject.num_classes:
        print(f"{len(outputs)} of the network's {subject.num_classes:,} outputs are classes here")
    if surrogate is not None:
        subject.surrogate, subject.surrogate_name = surrogate, str(config.surrogate)
    corruptions = None
    if config.corruptions is not None:
        corruptions = open_corruptions(
            config.corruptions,
            dict(zip(found.classes, outputs, strict=True)),
            preprocessing=preprocessing,
            limit=config.limit,
            workers=config.workers,
        )
    eps = config.eps or DEFAULT_EPS[config.norm][found.images.shape[-1] > SMALL_IMAGE]
    out = config.out or config.checkpoint.parent / "evaluation"
    print(
        f"{subject.name} on {device}: protocol {config.protocol}, {config.norm} eps {eps:.4g}; "
        f"writing to {out}"
    )
    try:
        results = evaluate(
            subject,
            found.images,
            torch.tensor(outputs)[found.labels],
            protocol=config.protocol,
            eps=eps,
            norm=config.norm,
            corruptions=corruptions,
            autoattack_version=config.autoattack_version,
            batch_size=config.batch_size,
            seed=config.seed,
            scale=config.scale,
            cache_dir=out,
            progress=PrintProgress(),
        )
        results.images_available, results.data = found.available, found.description
        if not world.is_main:
            return results
        saved, report = results.save(out), write_report(results, out)
    except KeyboardInterrupt:
        print(f"\ninterrupted; the results so far are in {out}; rerun the command to resume")
        raise
    print(results)
    print(f"wrote {saved} and {report}")
    return results


def _checkpoint_subject(config: EvaluateConfig, content: Mapping[str, Any]) -> Subject:
    training, path = content["config"], config.checkpoint
    if config.ema:
        find_state_dict(path, content, ema=True)  # which refuses a file without an average
    method = training.get("method", "an unknown method")
    return Subject(
        model=load_model(path, arch=config.arch),
        name=f"{training['arch']} trained by {method} ({path})",
        num_classes=training["num_classes"],
        beta=content.get("beta"),
        alpha=training.get("alpha") or Subject.alpha,
        config=training,
    )


def _weights_subject(config: EvaluateConfig, content: Any, arch: str, found: Images) -> Subject:
    path, image_size = config.checkpoint, found.images.shape[-1]
    state_dict, kind, _ = find_state_dict(path, content, ema=config.ema)
    num_classes = len(found.classes)
    model = create_model(arch, num_classes, image_size=image_size)
    if (in_file := count_classes(model, state_dict)) is not None:
        model, num_classes = create_model(arch, in_file, image_size=image_size), in_file
    print(apply_state_dict(model, state_dict, ema=config.ema, name=f"{path}{kind}"))
    if config.normalization == "dataset":
        mean, std = default_normalization(arch)
        print(f"images are normalized by mean {mean} and std {std}")
        model = Normalized(model, mean, std)
    return Subject(model, f"{arch} ({path})", num_classes)
