"""Signs that a model's gradients mislead attacks, each with the numbers that it rests on.

A check is a function of the `Results` with ``@check(question, source)``: it gives its numbers and
whether they are as they should be, or raises `NotMeasured`. The verdict is never "robust": it is
the smallest accuracy over all attacks, image by image, and whether these signs cast doubt on it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from sprout_fast.evaluation.recorder import Record
from sprout_fast.methods.sprout import LOW_MASS
from sprout_fast.nn.loss import true_class_mass

if TYPE_CHECKING:
    from sprout_fast.evaluation.results import Results

# Share of the images by which accuracy may differ before it is a sign: attacks draw random numbers,
# and a longer search finds a little more against any model.
LITTLE = 0.05
# The same between two losses. Honest models differ too: adversarially trained ones are unsure of
# themselves, which slows cross entropy; 6 points were measured of a TRADES model, on 300 images.
OF_LOSSES = 0.10
# Share of the images that may do what an honest network's may do too, but not for the most part.
MOST = 0.5
# Share of the images at which an attack that knows less may succeed alone. Not 0: near the
# boundary every search has its own luck.
LUCK = 0.01


class NotMeasured(Exception):
    """A check's measurements are not part of the protocol, or could not be had."""


@dataclass(frozen=True)
class Check:
    """One sign's outcome.

    Attributes:
        name: short.
        question: what a model without masked gradients answers with yes.
        status: "pass", "fail" or "not run".
        numbers: what the status rests on, by name; shares of images are in [0,1].
        reason: one sentence.
        source: where the sign comes from.
    """

    name: str
    question: str
    status: Literal["pass", "fail", "not run"]
    numbers: dict[str, float]
    reason: str
    source: str


@dataclass(frozen=True)
class Audit:
    """All checks. ``passed``: none failed, of those that were run."""

    checks: list[Check]

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if check.status == "fail"]

    @property
    def ran(self) -> list[Check]:
        return [check for check in self.checks if check.status != "not run"]

    @property
    def passed(self) -> bool:
        return not self.failed

    def to_dict(self) -> dict[str, Any]:
        return {"passed": self.passed, "checks": [asdict(check) for check in self.checks]}

    def __str__(self) -> str:
        if not self.ran:
            return "audit: not run"
        of = f"of {len(self.ran)} checks"
        not_run = len(self.checks) - len(self.ran)
        rest = f" ({not_run} more were not run)" if not_run else ""
        if self.passed:
            return f"audit: none {of} shows a sign of gradient masking{rest}"
        names = ", ".join(check.name for check in self.failed)
        return f"audit: {len(self.failed)} {of} show signs of gradient masking: {names}{rest}"


Outcome = tuple[bool, dict[str, float], str]
_CHECKS: list[tuple[str, str, str, Callable[[Results], Outcome]]] = []


def check(question: str, source: str) -> Callable:
    """Enter a function ``results -> (as it should be, numbers, reason)`` into the audit."""

    def enter(function: Callable[[Results], Outcome]) -> Callable[[Results], Outcome]:
        name = function.__name__.replace("_", " ")
        _CHECKS.append((name, question, source, function))
        return function

    return enter


def run_audit(results: Results) -> Audit:
    """Every check, on what the results hold."""
    checks = []
    for name, question, source, function in _CHECKS:
        try:
            if results.clean.correct == 0:
                raise NotMeasured("the model gets no image right by itself")
            good, numbers, reason = function(results)
            status = "pass" if good else "fail"
        except NotMeasured as missing:
            status, numbers, reason = "not run", {}, str(missing)
        checks.append(Check(name, question, status, numbers, reason, source))
    return Audit(checks)


ATHALYE = "Athalye, Carlini & Wagner 2018, section 3.1"
CARLINI = "Carlini et al. 2019, section 5"
CROCE = "Croce & Hein 2020"


def _record(results: Results, name: str) -> Record:
    record = results.records.get(name)
    if record is None:
        raise NotMeasured(f"the protocol {results.protocol} has no measurement {name!r}")
    if record.unavailable is not None:
        raise NotMeasured(record.unavailable)
    return record


def _accuracy(results: Results, name: str) -> float:
    return _record(results, f"audit: {name}").accuracy.top1


def _little(share: float, allowed: float, results: Results) -> bool:
    """Whether a difference is no sign: a small share of the images, or one image alone."""
    return share <= max(allowed, 1 / len(results.labels)) + 1e-9


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"


@check("Does an iterative attack find all that a single step finds?", ATHALYE)
def iterative_beats_one_step(results: Results) -> Outcome:
    one, many = _accuracy(results, "one step"), _accuracy(results, "PGD-20")
    numbers = {"one step": one, "PGD-20": many}
    reason = f"PGD-20 takes {_points(one - many)} more than one step of eps"
    return _little(many - one, LUCK, results), numbers, reason


@check("Have 20 steps found nearly all that 200 find?", CARLINI)
def more_steps_help_little(results: Results) -> Outcome:
    few, many = _accuracy(results, "PGD-20"), _accuracy(results, "PGD-200")
    numbers = {"PGD-20": few, "PGD-200": many}
    return (
        _little(few - many, LITTLE, results),
        numbers,
        f"200 steps take {_points(few - many)} more than 20",
    )


@check("Has one start found nearly all that ten find?", CARLINI)
def more_restarts_help_little(results: Results) -> Outcome:
    one, ten = _accuracy(results, "PGD-20"), _accuracy(results, "10x PGD-20")
    numbers = {"one start": one, "10 starts": ten}
    return (
        _little(one - ten, LITTLE, results),
        numbers,
        f"ten starts take {_points(one - ten)} more than one",
    )


@check("Does accuracy fall as eps grows?", CARLINI)
def accuracy_falls_with_eps(results: Results) -> Outcome:
    from sprout_fast.evaluation.protocols import EPS_FACTORS

    names = [
        (factor, "PGD-20" if factor == 1 else f"PGD-20 at {factor:g} eps")
        for factor in sorted((*EPS_FACTORS, 1.0))
    ]
    curve = {"no attack": results.clean_accuracy}
    curve |= {f"{factor:g} eps": _accuracy(results, name) for factor, name in names}
    values = list(curve.values())
    rise = max(late - early for early, late in itertools.pairwise(values))
    fall = values[0] - values[-1]
    good = _little(rise, LUCK, results) and (fall > 0 or values[0] == 0)
    reason = f"it falls by {_points(fall)} in all; the largest rise is {_points(max(rise, 0))}"
    return good, curve, reason


@check("Does accuracy reach 0 where every image may become grey?", ATHALYE)
def accuracy_reaches_zero(results: Results) -> Outcome:
    record = _record(results, "audit: PGD-200 at the largest eps")
    left = record.accuracy.top1
    numbers = {"eps": record.parameters["eps"], "accuracy": left}
    return left <= LUCK, numbers, f"{100 * left:.1f} % stand at eps {record.parameters['eps']:.3g}"


WHITE_BOX = (
    "PGD-20",
    "PGD-200",
    "10x PGD-20",
    "PGD-20 margin",
    "PGD-20 rescaled",
    "APGD-CE",
    "APGD-T",
)


def _only_without_gradients(results: Results, name: str) -> Outcome:
    """The images at which an attack that sees no gradient succeeds and all that see one fail."""
    blind = _record(results, f"audit: {name}").misclassified
    seeing = torch.stack([_record(results, f"audit: {white}").misclassified for white in WHITE_BOX])
    alone = int((blind & ~seeing.any(0)).sum())
    total = len(blind)
    numbers = {
        f"fell to {name}": int(blind.sum()) / total,
        "fell to attacks by gradient": int(seeing.any(0).sum()) / total,
        f"fell to {name} alone": alone / total,
    }
    good = _little(alone / total, LUCK, results)
    return good, numbers, f"{alone} of {total} images fell to {name} and to no attack by gradient"


@check("Do attacks by gradient find, image by image, all that Square finds without?", ATHALYE)
def black_box_never_wins(results: Results) -> Outcome:
    return _only_without_gradients(results, "Square")


@check("Do they find all that comes over from another model?", ATHALYE)
def transfer_never_wins(results: Results) -> Outcome:
    return _only_without_gradients(results, "transfer")


@check("Do they find all that random points of the ball find?", ATHALYE)
def noise_never_wins(results: Results) -> Outcome:
    return _only_without_gradients(results, "noise")


@check("Does it change nothing for the attack to rescale the logits?", "Carlini & Wagner 2017")
def rescaling_changes_nothing(results: Results) -> Outcome:
    plain = _accuracy(results, "PGD-20")
    rescaled = _accuracy(results, "PGD-20 rescaled")
    free = _accuracy(results, "PGD-20 margin")
    gain = plain - min(rescaled, free)
    numbers = {"cross entropy": plain, "rescaled": rescaled, "margin": free}
    return (
        _little(gain, OF_LOSSES, results),
        numbers,
        f"losses free of the logits' scale take {_points(gain)} more",
    )


@check("Do the gradients to the image exist and differ from 0?", ATHALYE)
def gradients_are_there(results: Results) -> Outcome:
    record = _record(results, "gradients")
    zero = {loss: record.columns[f"{loss}_zero"].double() for loss in ("ce", "margin")}
    dead = torch.maximum(zero["ce"], zero["margin"]) > 0.5
    numbers = {
        "mean norm, cross entropy": record.columns["ce_norm"].double().mean().item(),
        "mean norm, margin": record.columns["margin_norm"].double().mean().item(),
        "elements that are 0, cross entropy": zero["ce"].mean().item(),
        "elements that are 0, margin": zero["margin"].mean().item(),
        "images with most elements 0": dead.double().mean().item(),
    }
    share = numbers["images with most elements 0"]
    return (
        share <= LUCK,
        numbers,
        f"at {100 * share:.1f} % of the images most of it is 0 or not finite",
    )


@check("Does the model answer the same twice?", f"{ATHALYE}; {CROCE}")
def answers_are_not_random(results: Results) -> Outcome:
    columns = _record(results, "clean").columns
    change, margin = columns["change"].double(), columns["margin"].double()
    moved = (change > 1e-3 * margin.clamp_min(1e-12)) & (change > 0)
    share = moved.double().mean().item()
    numbers = {"largest change of a logit": change.max().item(), "images that change": share}
    return share <= LUCK, numbers, f"{100 * share:.1f} % of the answers differ between two passes"


@check("Are the outputs logits, not probabilities?", CROCE)
def outputs_are_logits(results: Results) -> Outcome:
    columns = _record(results, "clean").columns
    total, smallest = columns["sum"].double(), columns["smallest"].double()
    like_softmax = ((total - 1).abs() < 1e-3) & (smallest >= 0)
    share = like_softmax.double().mean().item()
    numbers = {"mean sum of a row": total.mean().item(), "rows like probabilities": share}
    return share <= LUCK, numbers, f"{100 * share:.1f} % of the rows sum to 1 without a negative"


@check("Are the probabilities as sharp as the accuracy allows?", "flat logits: Croce & Hein 2020")
def logits_are_not_flat(results: Results) -> Outcome:
    columns = _record(results, "clean").columns
    chance = 1 / results.subject.num_classes
    confidence, accuracy = columns["confidence"].double().mean().item(), results.clean_accuracy
    numbers = {
        "mean probability of the predicted class": confidence,
        "clean accuracy": accuracy,
        "chance": chance,
        "median margin of the two largest logits": columns["margin"].double().median().item(),
    }
    if accuracy - chance < LITTLE:
        raise NotMeasured("the model hardly beats chance")
    ratio = (confidence - chance) / (accuracy - chance)
    numbers["of accuracy, both above chance"] = ratio
    return (
        ratio >= 0.25,
        numbers,
        f"confidence above chance is {ratio:.2f} times accuracy above chance; flat logits flatten "
        "the loss that attacks climb",
    )


@check("Are the largest logits' differences within what float32 softmax can tell?", CARLINI)
def logits_are_not_saturated(results: Results) -> Outcome:
    margin = _record(results, "clean").columns["margin"].double()
    saturated = margin > 16.6  # nats: 1 - p is then under float32's rounding of 1
    share = saturated.double().mean().item()
    numbers = {"median margin": margin.median().item(), "images over 16.6": share}
    # Networks that were trained for long and naturally are sure of many images.
    reason = f"{100 * share:.1f} % of the images have a margin over 16.6 nats"
    return share <= MOST, numbers, reason


@check("Do targeted and untargeted attacks agree?", CROCE)
def targeted_agrees(results: Results) -> Outcome:
    names = ("APGD-CE", "PGD-20 margin", "PGD-20 rescaled")
    numbers = {name: _accuracy(results, name) for name in (*names, "APGD-T")}
    apart = abs(min(numbers[name] for name in names) - numbers["APGD-T"])
    reason = f"APGD-T and the best of the untargeted ones are {_points(apart)} apart"
    return _little(apart, OF_LOSSES, results), numbers, reason


@check(
    "Does the label that SPROUT trained on still name the true class?",
    "beta ascends without bound (SPROUT)",
)
def beta_leaves_the_label(results: Results) -> Outcome:
    beta = results.subject.beta
    if beta is None:
        raise NotMeasured("not a SPROUT model's checkpoint")
    mass = float(true_class_mass(beta, results.subject.alpha))
    numbers = {
        "true-class mass": mass,
        "smallest beta": float(beta.min()),
        "largest beta": float(beta.max()),
    }
    return mass >= LOW_MASS, numbers, f"{100 * mass:.0f} % of the label's mass is the true class's"
