"""Convert an evaluation to an entry of RobustBench's leaderboard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sprout_fast.errors import UserError
from sprout_fast.files import write_json

_DATASETS = {10: "cifar10", 100: "cifar100", 1000: "imagenet"}
_THREATS = {"linf": "Linf", "l2": "L2"}
# Attacks that are at least AutoAttack's standard version.
_STANDARD = {"apgd_ce", "apgd_t", "fab_t", "square"}


def robustbench_entry(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results in the form of a file in RobustBench's folder ``model_info``.

    The data set is inferred from the number of classes. What an evaluation cannot know, such as
    authors and venue, is empty. ``autoattack_acc`` is the accuracy under this package's four
    attacks of AutoAttack, or more; its own evaluations are on the first 10,000 (CIFAR) or 5,000
    images (ImageNet), which ``footnote`` points out where the number differs. ``unreliable`` says
    whether a check of the audit failed, and is left out if none was run.

    Args:
        results: content of results.json.

    Raises:
        UserError: a number of classes or a norm without a leaderboard, or attacks that are weaker
            than AutoAttack's.
    """
    verdict, parameters = results["verdict"], results["parameters"]
    classes, corruptions = parameters["num_classes"], results["corruptions"]
    if classes not in _DATASETS:
        raise UserError(
            f"{classes} classes: expected {', '.join(map(str, _DATASETS))}, those of CIFAR-10, "
            "CIFAR-100 and ImageNet",
            option="robustbench",
        )
    dataset = _DATASETS[classes]
    usual = 5_000 if dataset == "imagenet" else 10_000
    entry: dict[str, Any] = {
        "link": "",
        "name": results["model"],
        "authors": "",
        "additional_data": None,
        "number_forward_passes": 1,
        "dataset": dataset,
        "venue": "",
        "architecture": parameters["training"].get("arch", ""),
        "eps": None,
        "clean_acc": _percent(verdict["clean_accuracy"]),
        "reported": "",
        "footnote": "" if verdict["images"] == usual else f"On {verdict['images']:,} images.",
    }
    if corruptions is not None:
        if corruptions["missing"]:
            raise UserError(
                f"the evaluation lacks {', '.join(corruptions['missing'])}", option="robustbench"
            )
        entry["corruptions_acc"] = _percent(corruptions["mean_accuracy"])
        if corruptions["mce"] is not None:
            entry["corruptions_mce"] = _percent(corruptions["mce"])
        return entry
    _check_attacks(results)
    ran = [check for check in results["audit"]["checks"] if check["status"] != "not run"]
    levels = verdict["eps"] * 255
    whole = verdict["norm"] == "linf" and abs(levels - round(levels)) < 1e-6
    entry["eps"] = f"{round(levels)}/255" if whole else f"{verdict['eps']:.4g}"
    entry["autoattack_acc"] = _percent(verdict["robust_accuracy"])
    if ran:
        entry["unreliable"] = any(check["status"] == "fail" for check in ran)
    return entry


def _check_attacks(results: Mapping[str, Any]) -> None:
    verdict = results["verdict"]
    if verdict["norm"] not in _THREATS:
        raise UserError(
            f"norm {verdict['norm']}: expected {' or '.join(_THREATS)}, or corruptions",
            option="robustbench",
        )
    ball = verdict["norm"], verdict["eps"]
    ran = {
        one["parameters"]["attack"]
        for one in results["measurements"]
        if one["parameters"]["kind"] == "AttackMeasurement" and "accuracy" in one
        if (one["parameters"]["norm"], one["parameters"]["eps"]) == ball
    }
    missing = set() if "autoattack" in ran else _STANDARD - ran
    if missing or results["parameters"]["scale"] < 1:
        why = f"lacks {', '.join(sorted(missing))}" if missing else "is a trial run"
        raise UserError(
            f"the evaluation {why}: expected one of the protocols strong, plus, all or autoattack "
            "with their whole budgets",
            option="robustbench",
        )


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def write_robustbench_entry(folder: str | Path) -> Path:
    """Write ``robustbench.json`` next to an evaluation's ``results.json``, and return its path.

    Raises:
        UserError: there are no results, or what :func:`robustbench_entry` raises.
    """
    source = Path(folder) / "results.json"
    try:
        results = json.loads(source.read_text())
        entry = robustbench_entry(results)
    except FileNotFoundError as error:
        raise UserError(f"{folder}: has no results.json", option="robustbench") from error
    except (KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{source}: is not an evaluation's results ({error})") from error
    path = source.with_name("robustbench.json")
    write_json(path, entry)
    return path
