"""Checks for gradient masking, each with the numbers that it is based on.

A check is a function of the :class:`Evidence` with ``@check(question, source)``. It returns whether
it passes, its numbers and a reason, or raises :class:`NotMeasured`. No check can show that a model
is robust; a failed one shows that the robust accuracy may be an artifact of weak attacks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sprout_fast.evaluation.accuracy import Accuracy
from sprout_fast.evaluation.protocols import EPS_FACTORS
from sprout_fast.evaluation.recorder import AccuracyRecord, Record
from sprout_fast.evaluation.subject import Subject
from sprout_fast.methods.sprout import LOW_MASS
from sprout_fast.nn.loss import true_class_mass
from sprout_fast.registry import Registry

# Tolerated change of accuracy. Attacks are random, and a longer search finds slightly more errors
# against any model.
SMALL_CHANGE = 0.05
# The same between two losses. Adversarially trained models have low confidence, which slows down
# attacks on the cross entropy: a TRADES model showed a difference of 0.06 on 300 images.
LOSS_CHANGE = 0.10
# Tolerated fraction of images with a property that regular networks can show, too.
MAJORITY = 0.5
# Tolerated fraction of images on which only the weaker attack succeeds. Not 0, since close to the
# decision boundary success is partly random.
CHANCE = 0.01


class NotMeasured(Exception):
    """A check's measurements are not part of the protocol, or were not possible."""


@dataclass(frozen=True)
class Check:
    """Outcome of one check.

    Attributes:
        question: which a model without gradient masking answers with yes.
        numbers: what the status is based on, by name. Fractions of images are in [0,1].
        reason: one sentence that explains the status.
        source: where the check is from.
    """

    name: str
    question: str
    status: Literal["pass", "fail", "not run"]
    numbers: dict[str, float]
    reason: str
    source: str


@dataclass(frozen=True)
class Audit:
    """Outcome of all checks.

    >>> print(Audit([Check("a", "Is it?", "pass", {}, "it is", ""),
    ...              Check("b", "Is it?", "fail", {}, "it is not", "")]))
    audit: 1 of 2 checks shows signs of gradient masking: b
    """

    checks: list[Check]

    @property
    def failed(self) -> list[Check]:
        """Checks that found a sign of gradient masking."""
        return [check for check in self.checks if check.status == "fail"]

    @property
    def ran(self) -> list[Check]:
        """Checks whose measurements were available."""
        return [check for check in self.checks if check.status != "not run"]

    @property
    def passed(self) -> bool:
        """Whether no check failed. True if none was run."""
        return not self.failed

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as plain values."""
        return {"passed": self.passed, "checks": [asdict(check) for check in self.checks]}

    def __str__(self) -> str:
        if not self.ran:
            return "audit: not run"
        of = f"of {len(self.ran)} checks"
        not_run = len(self.checks) - len(self.ran)
        rest = f" ({not_run} not run)" if not_run else ""
        if self.passed:
            return f"audit: none {of} shows signs of gradient masking{rest}"
        names = ", ".join(check.name for check in self.failed)
        verb = "shows" if len(self.failed) == 1 else "show"
        return f"audit: {len(self.failed)} {of} {verb} signs of gradient masking: {names}{rest}"


@dataclass(frozen=True)
class Evidence:
    """The subject and the records by name of a protocol's evaluation, as the checks use them."""

    subject: Subject
    records: Mapping[str, Record]
    protocol: str

    @property
    def clean(self) -> Accuracy:
        """Accuracy without an attack."""
        return self._accuracy_record("clean").accuracy

    def columns(self, name: str) -> dict[str, Tensor]:
        """Return the columns of the record called ``name``, in float64.

        Raises:
            NotMeasured: there is none.
        """
        return {key: column.double() for key, column in self._record(name).columns.items()}

    def attack(self, name: str) -> AccuracyRecord:
        """Return the record of one of the audit's own attacks."""
        return self._accuracy_record(f"audit: {name}")

    def top1(self, name: str) -> float:
        """Return the accuracy under one of the audit's own attacks."""
        return self.attack(name).accuracy.top1

    def tolerates(self, share: float, allowed: float) -> bool:
        """Return whether a fraction of the images is at most ``allowed``, or a single image."""
        return share <= max(allowed, 1 / self.clean.total) + 1e-9

    def _record(self, name: str) -> Record:
        record = self.records.get(name)
        if record is None:
            raise NotMeasured(f"protocol {self.protocol} does not measure {name!r}")
        if record.unavailable is not None:
            raise NotMeasured(record.unavailable)
        return record

    def _accuracy_record(self, name: str) -> AccuracyRecord:
        record = self._record(name)
        if not isinstance(record, AccuracyRecord):
            raise NotMeasured(f"{name!r} does not classify images")
        return record


Outcome = tuple[bool, dict[str, float], str]
Function = Callable[[Evidence], Outcome]
CHECKS: Registry[tuple[str, str, Function]] = Registry("audit check")


def check(question: str, source: str) -> Callable[[Function], Function]:
    """Enter a function ``evidence -> (passes, numbers, reason)`` into the audit, by its name."""

    def enter(function: Function) -> Function:
        CHECKS.register(function.__name__.replace("_", " "))((question, source, function))
        return function

    return enter


def run_audit(subject: Subject, records: Mapping[str, Record], protocol: str) -> Audit:
    """Run all checks on the records of a protocol's evaluation, with ``clean`` among them.

    Checks whose measurements are missing have the status ``"not run"``; so do all checks if the
    model classifies no image correctly.
    """
    evidence = Evidence(subject, records, protocol)
    checks = []
    for name, (question, source, function) in CHECKS.items():
        status: Literal["pass", "fail", "not run"]
        try:
            if evidence.clean.correct == 0:
                raise NotMeasured("the model classifies no image correctly")
            good, numbers, reason = function(evidence)
            status = "pass" if good else "fail"
        except NotMeasured as missing:
            status, numbers, reason = "not run", {}, str(missing)
        checks.append(Check(name, question, status, numbers, reason, source))
    return Audit(checks)


ATHALYE = "Athalye, Carlini & Wagner 2018, section 3.1"
CARLINI = "Carlini et al. 2019, section 5"
CROCE = "Croce & Hein 2020"


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"


def _share(images: Tensor) -> float:
    return images.double().mean().item()


@check("Does an iterative attack find all errors that a single step finds?", ATHALYE)
def iterative_beats_one_step(evidence: Evidence) -> Outcome:
    one, many = evidence.top1("one step"), evidence.top1("PGD-20")
    numbers = {"accuracy, one step": one, "accuracy, PGD-20": many}
    reason = f"accuracy is {_points(one - many)} lower under PGD-20 than under one step of size eps"
    return evidence.tolerates(many - one, CHANCE), numbers, reason


@check("Do 20 steps find nearly all errors that 200 steps find?", CARLINI)
def more_steps_help_little(evidence: Evidence) -> Outcome:
    few, many = evidence.top1("PGD-20"), evidence.top1("PGD-200")
    numbers = {"accuracy, PGD-20": few, "accuracy, PGD-200": many}
    reason = f"accuracy is {_points(few - many)} lower with 200 steps than with 20"
    return evidence.tolerates(few - many, SMALL_CHANGE), numbers, reason


@check("Does one random start find nearly all errors that ten starts find?", CARLINI)
def more_restarts_help_little(evidence: Evidence) -> Outcome:
    one, ten = evidence.top1("PGD-20"), evidence.top1("10x PGD-20")
    numbers = {"accuracy, 1 start": one, "accuracy, 10 starts": ten}
    reason = f"accuracy is {_points(one - ten)} lower with ten starts than with one"
    return evidence.tolerates(one - ten, SMALL_CHANGE), numbers, reason


@check("Does accuracy decrease as eps increases?", CARLINI)
def accuracy_decreases_with_eps(evidence: Evidence) -> Outcome:
    names = [
        (factor, "PGD-20" if factor == 1 else f"PGD-20 at {factor:g} eps")
        for factor in sorted((*EPS_FACTORS, 1.0))
    ]
    curve = {"accuracy, no attack": evidence.clean.top1}
    curve |= {f"accuracy, {factor:g} eps": evidence.top1(name) for factor, name in names}
    values = list(curve.values())
    rise = max(late - early for early, late in itertools.pairwise(values))
    fall = values[0] - values[-1]
    good = evidence.tolerates(rise, CHANCE) and (fall > 0 or values[0] == 0)
    reason = (
        f"accuracy decreases by {_points(fall)} in total; the largest increase between two eps is "
        f"{_points(max(rise, 0))}"
    )
    return good, curve, reason


@check("Does accuracy reach zero once eps is large enough to turn any image gray?", ATHALYE)
def accuracy_reaches_zero(evidence: Evidence) -> Outcome:
    record = evidence.attack("PGD-200 at the largest eps")
    left, eps = record.accuracy.top1, record.parameters["eps"]
    reason = f"{100 * left:.1f} % of the images are still correctly classified at eps {eps:.3g}"
    return left <= CHANCE, {"eps": eps, "accuracy": left}, reason


PGD = ("PGD-20", "PGD-200", "10x PGD-20", "PGD-20 margin", "PGD-20 rescaled")
WHITE_BOX = (*PGD, "APGD-CE", "APGD-T")


def _only_without_gradients(evidence: Evidence, name: str) -> Outcome:
    """Count images on which a gradient-free attack succeeds and all gradient-based ones fail."""
    without = evidence.attack(name).misclassified
    each = [evidence.attack(white_box).misclassified for white_box in WHITE_BOX]
    with_gradients = torch.stack(each).any(0)
    alone = int((without & ~with_gradients).sum())
    total = len(without)
    numbers = {
        f"misclassified under {name}": int(without.sum()) / total,
        "misclassified under gradient-based attacks": int(with_gradients.sum()) / total,
        f"misclassified under {name} only": alone / total,
    }
    reason = (
        f"{alone} of {total} images are misclassified under {name} but under no gradient-based "
        "attack"
    )
    return evidence.tolerates(alone / total, CHANCE), numbers, reason


@check("Do gradient-based attacks find all errors that Square finds without gradients?", ATHALYE)
def black_box_never_wins(evidence: Evidence) -> Outcome:
    return _only_without_gradients(evidence, "Square")


@check("Do gradient-based attacks find all errors that transfer from the surrogate?", ATHALYE)
def transfer_never_wins(evidence: Evidence) -> Outcome:
    return _only_without_gradients(evidence, "transfer")


@check("Do gradient-based attacks find all errors that random noise finds?", ATHALYE)
def noise_never_wins(evidence: Evidence) -> Outcome:
    return _only_without_gradients(evidence, "noise")


@check("Are attacks unaffected by the scale of the logits?", "Carlini & Wagner 2017")
def rescaling_changes_nothing(evidence: Evidence) -> Outcome:
    plain = evidence.top1("PGD-20")
    rescaled, margin = evidence.top1("PGD-20 rescaled"), evidence.top1("PGD-20 margin")
    gain = plain - min(rescaled, margin)
    numbers = {
        "accuracy, cross entropy": plain,
        "accuracy, rescaled logits": rescaled,
        "accuracy, margin": margin,
    }
    reason = f"accuracy is {_points(gain)} lower under losses that do not depend on the scale"
    return evidence.tolerates(gain, LOSS_CHANGE), numbers, reason


@check("Are the input gradients nonzero and finite?", ATHALYE)
def gradients_are_nonzero(evidence: Evidence) -> Outcome:
    columns = evidence.columns("gradients")
    share = _share(torch.maximum(columns["ce_zero"], columns["margin_zero"]) > 0.5)
    numbers = {
        "mean norm, cross entropy": columns["ce_norm"].mean().item(),
        "mean norm, margin": columns["margin_norm"].mean().item(),
        "zero elements, cross entropy": columns["ce_zero"].mean().item(),
        "zero elements, margin": columns["margin_zero"].mean().item(),
        "images with mostly zero elements": share,
    }
    reason = f"the gradient is mostly zero or not finite on {100 * share:.1f} % of the images"
    return share <= CHANCE, numbers, reason


@check("Are the outputs deterministic?", f"{ATHALYE}; {CROCE}")
def outputs_are_deterministic(evidence: Evidence) -> Outcome:
    columns = evidence.columns("clean")
    change, margin = columns["change"], columns["margin"]
    share = _share((change > 1e-3 * margin.clamp_min(1e-12)) & (change > 0))
    numbers = {"largest change of a logit": change.max().item(), "images that change": share}
    reason = f"{100 * share:.1f} % of the outputs differ between two forward passes"
    return share <= CHANCE, numbers, reason


@check("Are the outputs logits rather than probabilities?", CROCE)
def outputs_are_logits(evidence: Evidence) -> Outcome:
    columns = evidence.columns("clean")
    share = _share(((columns["sum"] - 1).abs() < 1e-3) & (columns["smallest"] >= 0))
    mean = columns["sum"].mean().item()
    numbers = {"mean sum of the outputs": mean, "probability-like outputs": share}
    reason = f"the outputs are nonnegative and sum to 1 on {100 * share:.1f} % of the images"
    return share <= CHANCE, numbers, reason


@check("Is the model about as confident as it is accurate?", "flat logits: Croce & Hein 2020")
def logits_are_not_flat(evidence: Evidence) -> Outcome:
    columns = evidence.columns("clean")
    chance = 1 / evidence.subject.num_classes
    confidence, accuracy = columns["confidence"].mean().item(), evidence.clean.top1
    if accuracy - chance < SMALL_CHANGE:
        raise NotMeasured("clean accuracy is close to chance")
    ratio = (confidence - chance) / (accuracy - chance)
    numbers = {
        "mean confidence": confidence,
        "clean accuracy": accuracy,
        "chance": chance,
        "median margin": columns["margin"].median().item(),
        "confidence / accuracy, above chance": ratio,
    }
    reason = (
        f"above chance, mean confidence is {ratio:.2f} times accuracy; flat logits flatten the "
        "loss that attacks maximize"
    )
    return ratio >= 0.25, numbers, reason


@check("Are differences of logits within the resolution of a float32 softmax?", CARLINI)
def logits_are_not_saturated(evidence: Evidence) -> Outcome:
    margin = evidence.columns("clean")["margin"]
    share = _share(margin > 16.6)  # nats: 1 - p is then below float32's rounding error of 1
    numbers = {"median margin": margin.median().item(), "images with margin over 16.6": share}
    # MAJORITY, since naturally trained networks become this confident on many images.
    reason = f"{100 * share:.1f} % of the images have a margin over 16.6 nats"
    return share <= MAJORITY, numbers, reason


@check("Do targeted and untargeted attacks agree?", CROCE)
def targeted_and_untargeted_agree(evidence: Evidence) -> Outcome:
    names = ("APGD-CE", "PGD-20 margin", "PGD-20 rescaled", "APGD-T")
    *untargeted, targeted = accuracies = [evidence.top1(name) for name in names]
    numbers = {f"accuracy, {name}": value for name, value in zip(names, accuracies, strict=True)}
    apart = abs(min(untargeted) - targeted)
    reason = f"APGD-T and the best untargeted attack differ by {_points(apart)}"
    return evidence.tolerates(apart, LOSS_CHANGE), numbers, reason


@check(
    "Do SPROUT's training labels keep most of their mass on the true class?",
    "beta's ascent is unbounded (SPROUT)",
)
def labels_keep_the_true_class(evidence: Evidence) -> Outcome:
    beta = evidence.subject.beta
    if beta is None:
        raise NotMeasured("the model is not a SPROUT checkpoint")
    mass = float(true_class_mass(beta, evidence.subject.alpha))
    low, high = float(beta.min()), float(beta.max())
    numbers = {"expected true-class mass": mass, "smallest beta": low, "largest beta": high}
    reason = f"the expected mass on the true class is {100 * mass:.0f} %"
    return mass >= LOW_MASS, numbers, reason
