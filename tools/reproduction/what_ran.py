"""What an exhibit's numbers come from, in sentences that are derived from what ran."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from training_benchmark.contestants import describe

from reproduction.exhibits.base import EXHIBITS, Exhibit
from reproduction.scale import Scale, network_name
from reproduction.store import TIMED_BATCH, TIMED_IMAGES, TIMED_METHODS, TIMED_SIDE, Counts, Store
from reproduction.training import Training
from sprout_fast.evaluation.measurements import AttackMeasurement, Measurement
from sprout_fast.methods import MethodSetting, build_method
from sprout_fast.methods.options import method_options

# Options of an attack that a scale changes, and what they count.
_COUNTED = {"steps": "step", "restarts": "random start", "binary_searches": "binary search"}


def differences(exhibit: Exhibit, store: Store) -> list[str]:
    """Return one line for each size of what ran that differs from the paper's."""
    full = EXHIBITS[f"{exhibit.kind} {exhibit.number}"](Scale(1))
    lines = []
    if exhibit.trainings():
        lines += _data_lines(exhibit, full, store.counts(exhibit.dataset))
    lines += _attack_lines(exhibit, full)
    for network in exhibit.networks:
        arch = exhibit.scale.arch(network)
        if arch.removeprefix("cifar_") != network:
            lines.append(f"{arch} instead of {network_name(network)}")
    if missing := [network_name(one) for one in full.networks if one not in exhibit.networks]:
        lines.append(f"without {', '.join(missing)}")
    return lines


def _data_lines(exhibit: Exhibit, full: Exhibit, counts: Counts) -> list[str]:
    dataset = exhibit.dataset
    found = [
        ("training images", f"{counts.train:,}", f"{dataset.train_images:,}"),
        ("classes", f"{counts.classes:,}", f"{dataset.classes:,}"),
    ]
    limits = [one.limit for named in exhibit.measured().values() for one in named.values()]
    if limits:
        most = None if None in limits else max(limit for limit in limits if limit is not None)
        now, then = (
            count if most is None else min(count, most)
            for count in (counts.test, dataset.test_images)
        )
        found.append(("test images", f"{now:,}", f"{then:,}"))
    for option, text in (
        ("epochs", "epochs"),
        ("batch_size", "batch size"),
        ("image_size", "side of the images in pixels"),
    ):
        now, then = (_values(one.trainings(), option) for one in (exhibit, full))
        found.append((text, now, then))
    return [f"{text}: {now} instead of {then}" for text, now, then in found if now != then]


def _values(trainings: Iterable[Training], option: str) -> str:
    """Return the values of an option, e.g. ``"90 (natural), 2 (sprout)"`` if it varies."""
    by_value: dict[int, list[str]] = {}
    for one in trainings:
        methods = by_value.setdefault(one[option], [])
        if one["method"] not in methods:
            methods.append(one["method"])
    if len(by_value) == 1:
        return str(next(iter(by_value)))
    return ", ".join(f"{value} ({', '.join(names)})" for value, names in by_value.items())


def _attack_lines(exhibit: Exhibit, full: Exhibit) -> list[str]:
    original = _attacks(full)
    lines, same = [], {}
    for name, attack in _attacks(exhibit).items():
        changed = {
            option: count
            for option, count in counts_of(attack).items()
            if name in original and count != counts_of(original[name])[option]
        }
        if changed:
            now = " and ".join(counted(count, _COUNTED[one]) for one, count in changed.items())
            then = " and ".join(str(counts_of(original[name])[one]) for one in changed)
            lines.append(f"{name}: {now} instead of {then}")
        given = attack.parameters()
        options = {**given.pop("defaults"), **given.pop("options")}
        same.setdefault(
            str({**given, "name": None, "options": sorted(options.items())}), []
        ).append(name)
    for names in same.values():
        if len(names) > 1:
            lines.append(
                f"{', '.join(names)} are the same attack at this scale: they differ in their random"
                " numbers at most"
            )
    return lines


def _attacks(exhibit: Exhibit) -> dict[str, AttackMeasurement]:
    measurements: dict[str, Measurement] = {}
    for named in exhibit.measured().values():
        measurements |= named
    return {k: one for k, one in measurements.items() if isinstance(one, AttackMeasurement)}


def counts_of(attack: AttackMeasurement) -> dict[str, int]:
    """Return how many steps, random starts and binary searches an attack makes.

    >>> counts_of(AttackMeasurement("PGD-20", options={"steps": 20}))
    {'steps': 20}
    """
    return {name: attack.options[name] for name in _COUNTED if name in attack.options}


def counted(count: int, what: str) -> str:
    """Return a count with its noun.

    >>> counted(1, "random start"), counted(2, "binary search")
    ('1 random start', '2 binary searches')
    """
    plural = "es" if what.endswith("ch") else "s"
    return f"{count:,} {what}{plural if count != 1 else ''}"


def training_lines(exhibit: Exhibit, store: Store) -> list[str]:
    """Return one line for each group of trainings with the same options, and one per method."""
    by_text: dict[str, list[str]] = {}
    options: dict[str, list[dict[str, Any]]] = {}
    for training in exhibit.trainings():
        config = store.config(training)
        by_text.setdefault(_described(config, store.counts(training.dataset)), []).append(
            training.label
        )
        own = {one.name: one.default for one in method_options()[config["method"]]}
        given = {name: config.get(name) for name in own if config.get(name) is not None}
        options.setdefault(config["method"], []).append(own | given)
    lines = [f"{'; '.join(labels)}: {text}" for text, labels in by_text.items()]
    for method, found in options.items():
        common = {
            name: value
            for name, value in found[0].items()
            if value is not None and all(one[name] == value for one in found)
        }
        if common:
            text = f"options of {method}: {', '.join(map(_shown, common.items()))}"
            if len({one.get("modules") for one in found}) > 1:
                text += "; of these, each row has those of its modules"
            lines.append(text)
    return lines


def _described(config: Mapping[str, Any], counts: Counts) -> str:
    epochs = f"{config['epochs']:,} epoch{'s' if config['epochs'] != 1 else ''}"
    return (
        f"{epochs} of {counts.train:,} images of {config['image_size']} pixels, batch size"
        f" {config['batch_size']}, SGD with peak learning rate {config['lr']:.4g}, schedule"
        f" {config['schedule']} after {config['warmup_epochs']:.3g} epochs of warm-up, weight decay"
        f" {config['weight_decay']:g}, seed {config['seed']}"
    )


def _shown(option: tuple[str, Any]) -> str:
    name, value = option
    return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"


def timing_lines(exhibit: Exhibit, store: Store) -> list[str]:
    """Return what the seconds are."""
    if not exhibit.timed():
        return []
    setting = MethodSetting(num_classes=10, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    extra = {name: describe(build_method(name, setting)) for name in TIMED_METHODS}
    return [
        f"seconds are those of a training step on {TIMED_BATCH} random images of {TIMED_SIDE}"
        f" pixels in {'float32' if store.amp == 'none' else store.amp}, times the steps of"
        f" {TIMED_IMAGES // 50_000} epochs of 50,000 images, on {store.device}; no training is run"
        " for them (see tools/benchmark_training.py)",
        "per batch, " + "; ".join(f"{name} makes {text}" for name, text in extra.items() if text),
    ]
