"""Checks for gradient masking, each with the numbers that it is based on.

A check is a function of the :class:`Evidence` with ``@check(question, source)``. It returns an
:class:`Outcome`, or raises :class:`NotMeasured`. No check can show that a model is robust; a failed
one shows that the robust accuracy may be an artifact of weak attacks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

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
# Fraction of the errors that targeted or untargeted attacks may find alone: up to a sixth on honest
# networks, nearly all of them where one kind is misled.
LOSS_SHARE = 1 / 3
# Tolerated fraction of images with a property that regular networks show on single images.
FEW = 0.10
# Change of a logit, as a fraction of the range of the image's logits, that neither the order of
# sums nor float16's rounding explains.
LARGE = 0.05
# The same between passes over one batch, where not even the order of sums changes on a CPU.
REPEATED = 1e-3
# Margin in nats above which 1 - p is below float32's rounding error of 1.
SATURATED = 16.6
# Confidence above chance, as a fraction of accuracy above chance.
FLAT = 0.1
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
        affected: fraction of the images counted as robust to which a failed check applies, in
            [0,1], at the upper end of its 95 % interval if it was measured on few images.
    """

    name: str
    question: str
    status: Literal["pass", "fail", "not run"]
    numbers: dict[str, float]
    reason: str
    source: str
    affected: float = 1.0


@dataclass(frozen=True)
class Audit:
    """Outcome of all checks.

    >>> print(Audit([Check("a", "Is it?", "pass", {}, "it is", ""),
    ...              Check("b", "Is it?", "fail", {}, "it is not", "")]))
    audit: 1 of the 2 checks that were run shows signs of gradient masking: b
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
    def not_run(self) -> list[Check]:
        """Checks whose measurements were not available."""
        return [check for check in self.checks if check.status == "not run"]

    @property
    def passed(self) -> bool:
        """Whether no check failed. True if none was run."""
        return not self.failed

    @property
    def affected(self) -> float:
        """Fraction of the images counted as robust that the failed checks put in doubt."""
        return max((check.affected for check in self.failed), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as plain values."""
        return {"passed": self.passed, "checks": [asdict(check) for check in self.checks]}

    def __str__(self) -> str:
        if not self.ran:
            return "audit: not run"
        of = f"of the {len(self.ran)} checks that were run"
        rest = f" ({len(self.not_run)} were not run)" if self.not_run else ""
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
        """Return the record of an attack of the protocol audit, else of the cascade of strong."""
        audits = f"audit: {name}"
        return self._accuracy_record(audits if audits in self.records else name)

    def attacks(self, names: tuple[str, ...]) -> list[AccuracyRecord]:
        """Return the records of those attacks that were run, at least the first of APGD."""
        self.attack(APGD[0])
        ran = [name for name in names if {name, f"audit: {name}"} & self.records.keys()]
        return [self.attack(name) for name in ran]

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


class Outcome(NamedTuple):
    """What a check returns; see :class:`Check`."""

    passes: bool
    numbers: dict[str, float]
    reason: str
    affected: float = 1.0


Function = Callable[[Evidence], Outcome]
CHECKS: Registry[tuple[str, str, Function]] = Registry("audit check")


def check(question: str, source: str) -> Callable[[Function], Function]:
    """Enter a function of the evidence into the audit, by its name."""

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
            outcome = function(evidence)
            status = "pass" if outcome.passes else "fail"
        except NotMeasured as missing:
            status, outcome = "not run", Outcome(False, {}, str(missing), 0.0)
        _, numbers, reason, affected = outcome
        checks.append(Check(name, question, status, numbers, reason, source, affected))
    return Audit(checks)


ATHALYE = "Athalye, Carlini & Wagner 2018, section 3.1"
CARLINI = "Carlini et al. 2019, section 5"
CROCE = "Croce & Hein 2020"


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _share(images: Tensor) -> float:
    return images.double().mean().item()


def _at_most(images: Tensor) -> float:
    """Return the upper end of the 95 % interval of the fraction of images, bool [n]."""
    return Accuracy(int(images.sum()), len(images)).interval[1]


@check("Does an iterative attack find all errors that a single step finds?", ATHALYE)
def iterative_beats_one_step(evidence: Evidence) -> Outcome:
    one, many = evidence.top1("one step"), evidence.top1("PGD-20")
    numbers = {"accuracy, one step": one, "accuracy, PGD-20": many}
    reason = f"accuracy is {_points(one - many)} lower under PGD-20 than under one step of size eps"
    return Outcome(evidence.tolerates(many - one, CHANCE), numbers, reason)


def _helps_little(evidence: Evidence, weak: str, strong: str, reason: str) -> Outcome:
    few, many = evidence.top1(weak), evidence.top1(strong)
    gain = few - many
    numbers = {f"accuracy, {weak}": few, f"accuracy, {strong}": many}
    affected = min(gain / few, 1.0) if few > 0 else 0.0  # as much again may be left
    return Outcome(
        evidence.tolerates(gain, SMALL_CHANGE), numbers, reason.format(_points(gain)), affected
    )


@check("Do 20 steps find nearly all errors that 200 steps find?", CARLINI)
def more_steps_help_little(evidence: Evidence) -> Outcome:
    reason = "accuracy is {} lower with 200 steps than with 20"
    return _helps_little(evidence, "PGD-20", "PGD-200", reason)


@check("Does one random start find nearly all errors that ten starts find?", CARLINI)
def more_restarts_help_little(evidence: Evidence) -> Outcome:
    reason = "accuracy is {} lower with ten starts than with one"
    return _helps_little(evidence, "PGD-20", "10x PGD-20", reason)


@check("Does accuracy decrease as eps increases?", CARLINI)
def accuracy_decreases_with_eps(evidence: Evidence) -> Outcome:
    curve = {"accuracy, no attack": evidence.clean.top1}
    for factor in sorted((*EPS_FACTORS, 1.0)):
        name = "PGD-20" if factor == 1 else f"PGD-20 at {factor:g} eps"
        curve[f"accuracy, {factor:g} eps"] = evidence.top1(name)
    values = list(curve.values())
    rise = max(late - early for early, late in itertools.pairwise(values))
    fall = values[0] - values[-1]
    passes = evidence.tolerates(rise, CHANCE) and (fall > 0 or values[0] == 0)
    largest = f"the largest increase between two eps is {_points(max(rise, 0))}"
    reason = f"accuracy decreases by {_points(fall)} in total; {largest}"
    return Outcome(passes, curve, reason)


@check("Does accuracy reach zero once eps is large enough to turn any image gray?", ATHALYE)
def accuracy_reaches_zero(evidence: Evidence) -> Outcome:
    record = evidence.attack("PGD-200 at the largest eps")
    left, eps = record.accuracy.top1, record.parameters["eps"]
    reason = f"{_percent(left)} of the images are still correctly classified at eps {eps:.3g}"
    return Outcome(left <= CHANCE, {"eps": eps, "accuracy": left}, reason)


APGD = ("APGD-CE", "APGD-DLR", "APGD-T")
PGD = ("PGD-20", "PGD-200", "10x PGD-20", "PGD-20 margin", "PGD-20 rescaled")
WHITE_BOX = (*PGD, *APGD, "FAB", "FAB-T")


def _never_wins(
    evidence: Evidence, name: str, others: tuple[str, ...] = WHITE_BOX, kind: str = "gradient-based"
) -> Outcome:
    """Count images on which an attack succeeds and all others fail.

    In a cascade, the others are those before it, on whose errors it did not run.
    """
    record = evidence.attack(name)
    if before := record.parameters["cascade"]:
        others = tuple(one for one in others if one in before)
    found_alone = record.misclassified
    found = torch.stack([one.misclassified for one in evidence.attacks(others)]).any(0)
    total, alone = len(found), int((found_alone & ~found).sum())
    numbers = {
        f"misclassified under {name}": int(found_alone.sum()) / total,
        f"misclassified under {kind} attacks": int(found.sum()) / total,
        f"misclassified under {name} only": alone / total,
    }
    count = f"{alone} of {total} images are misclassified under {name}"
    # The fraction of all errors that the others missed. The same fraction of the rest may be wrong.
    errors = int((found | found_alone).sum()) - (total - evidence.clean.correct)
    affected = alone / errors if errors > 0 else 0.0
    reason = f"{count} but under no {kind} attack"
    return Outcome(evidence.tolerates(alone / total, CHANCE), numbers, reason, affected)


@check("Do gradient-based attacks find all errors that Square finds without gradients?", ATHALYE)
def black_box_never_wins(evidence: Evidence) -> Outcome:
    return _never_wins(evidence, "Square")


@check("Do attacks that ascend a loss find all errors that FAB finds?", CROCE)
def smallest_perturbation_never_wins(evidence: Evidence) -> Outcome:
    return _never_wins(evidence, "FAB-T", APGD, "Auto-PGD")


@check("Do gradient-based attacks find all errors that transfer from the surrogate?", ATHALYE)
def transfer_never_wins(evidence: Evidence) -> Outcome:
    return _never_wins(evidence, "transfer")


@check("Do gradient-based attacks find all errors that random noise finds?", ATHALYE)
def noise_never_wins(evidence: Evidence) -> Outcome:
    return _never_wins(evidence, "noise")


def _hides_no_errors(evidence: Evidence, scaled: str, others: tuple[str, ...]) -> Outcome:
    """Count errors that attacks on the cross entropy miss where float32 distorts its gradient.

    Two losses lead to different errors on any model. The scale of the logits is to blame only
    where the softmax is saturated, and it matters only where it hides errors.
    """
    margin = evidence.columns("clean")["margin"]
    saturated = margin > SATURATED
    missed = ~evidence.attack(scaled).misclassified
    found = torch.stack([evidence.attack(name).misclassified for name in others]).any(0)
    hidden = _share(saturated & missed & found)
    numbers = {
        "median margin": margin.median().item(),
        f"images with margin over {SATURATED}": _share(saturated),
        f"of these, misclassified under {' or '.join(others)} but not {scaled}": hidden,
    }
    reason = (
        f"{_percent(_share(saturated))} of the images have a margin over {SATURATED} nats; on "
        f"{_percent(hidden)}, {scaled} missed an error for this reason"
    )
    affected = hidden / missed.double().mean().item() if hidden else 0.0
    return Outcome(evidence.tolerates(hidden, SMALL_CHANGE), numbers, reason, affected)


@check("Are PGD's errors unaffected by the scale of the logits?", "Carlini & Wagner 2017")
def rescaling_changes_nothing(evidence: Evidence) -> Outcome:
    return _hides_no_errors(evidence, "PGD-20", ("PGD-20 rescaled", "PGD-20 margin"))


@check("Are differences of logits within the resolution of a float32 softmax?", CARLINI)
def logits_are_not_saturated(evidence: Evidence) -> Outcome:
    return _hides_no_errors(evidence, "APGD-CE", ("APGD-T",))


@check("Are the input gradients nonzero and finite?", ATHALYE)
def gradients_are_nonzero(evidence: Evidence) -> Outcome:
    columns = evidence.columns("gradients")
    mostly_zero = torch.maximum(columns["ce_zero"], columns["margin_zero"]) > 0.5
    share = _share(mostly_zero)
    numbers = {
        "mean norm, cross entropy": columns["ce_norm"].mean().item(),
        "mean norm, margin": columns["margin_norm"].mean().item(),
        "zero elements, cross entropy": columns["ce_zero"].mean().item(),
        "zero elements, margin": columns["margin_zero"].mean().item(),
        "images with mostly zero elements": share,
    }
    reason = f"the gradient is mostly zero or not finite on {_percent(share)} of the images"
    return Outcome(share <= CHANCE, numbers, reason, _at_most(mostly_zero))


@check("Does the loss change as its gradient predicts?", "central differences")
def loss_follows_the_gradient(evidence: Evidence) -> Outcome:
    columns = evidence.columns("gradients")
    slope, rise = columns["slope"], columns["rise"]
    wrong = (slope < 0.5) | (slope > 2) | (rise <= 0)
    share = _share(wrong)
    numbers = {
        "median slope / predicted slope": slope.median().item(),
        "images with a slope off by a factor of 2": _share((slope < 0.5) | (slope > 2)),
        "images with no rise along the gradient": _share(rise <= 0),
    }
    reason = f"the gradient does not predict the loss nearby on {_percent(share)} of the images"
    return Outcome(share <= FEW, numbers, reason, _at_most(wrong))


def _fixed(evidence: Evidence) -> dict[str, Tensor]:
    """Return the columns of the record "stability" if two passes over it give the same outputs."""
    columns = evidence.columns("stability")
    if (columns["repeated"] > REPEATED).any():
        raise NotMeasured("the outputs are random")
    return columns


@check("Are the gradients deterministic?", ATHALYE)
def gradients_are_deterministic(evidence: Evidence) -> Outcome:
    change = _fixed(evidence)["gradient"]
    wrong = change > LARGE
    reason = f"gradients change between passes on {_percent(_share(wrong))} of the images"
    numbers = {"largest change / length of the gradient": change.max().item()}
    return Outcome(not wrong.any(), numbers, reason, _at_most(wrong))


@check("Are the outputs deterministic?", f"{ATHALYE}; {CROCE}")
def outputs_are_deterministic(evidence: Evidence) -> Outcome:
    columns, few = evidence.columns("clean"), evidence.columns("stability")
    change = columns["change"]
    wrong = (change > 1e-3 * columns["margin"].clamp_min(1e-12)) & (change > 0)
    random = torch.maximum(few["repeated"], few["repeated_attacked"])
    numbers = {
        "largest change of a logit": change.max().item(),
        "images that change in 5 passes": _share(wrong),
        "of few images, those that change in 64": _share(few["repeated"] > REPEATED),
        "of few attacked images, those that change": _share(few["repeated_attacked"] > REPEATED),
        "passes that misclassify an attacked image": few["wrong_passes"].mean().item(),
    }
    if passes := not (random > REPEATED).any() and _share(wrong) <= CHANCE:
        reason = "the outputs are the same in every pass, also on attacked images"
    else:
        seen = max(_share(wrong), _share(random > REPEATED))
        reason = (
            f"the outputs differ between passes on {_percent(seen)} of the images; "
            "the protocol rand attacks random models"
        )
    return Outcome(passes, numbers, reason, max(_at_most(wrong), _at_most(random > REPEATED)))


@check("Is an image's output independent of the other images in its batch?", "batch statistics")
def images_do_not_interact(evidence: Evidence) -> Outcome:
    columns = _fixed(evidence)
    alone, permuted = columns["alone"], columns["permuted"]
    wrong = torch.maximum(alone, permuted) > LARGE
    numbers = {
        "largest change of a logit / range, alone": alone.max().item(),
        "largest change of a logit / range, batch permuted": permuted.max().item(),
    }
    reason = f"the outputs depend on the rest of the batch for {_percent(_share(wrong))} of images"
    return Outcome(not wrong.any(), numbers, reason, _at_most(wrong))


@check("Are outputs nearly the same for nearly the same image?", ATHALYE)
def outputs_are_continuous(evidence: Evidence) -> Outcome:
    change = _fixed(evidence)["nearby"]
    wrong = change > LARGE
    numbers = {"largest change of a logit / range": change.max().item()}
    share = _percent(_share(wrong))
    reason = f"noise of size eps / 1000 changes logits by 5 % of their range on {share} of images"
    return Outcome(not wrong.any(), numbers, reason, _at_most(wrong))


@check("Is a forward pass free of optimization?", "Croce et al. 2022, section 3")
def nothing_is_optimized_at_test_time(evidence: Evidence) -> Outcome:
    columns = evidence.columns("stability")
    passes, rewritten = int(columns["backward_passes"].max()), bool(columns["rewritten"].any())
    reason = f"the forward pass makes {passes or 'no'} backward pass{'es' * (passes != 1)}"
    reason += f" and {'changes' if rewritten else 'leaves'} parameters and buffers"
    reason += "" if rewritten else " unchanged"
    numbers = {"backward passes": passes, "parameters or buffers change": float(rewritten)}
    return Outcome(passes == 0 and not rewritten, numbers, reason)


@check("Are the outputs logits rather than probabilities?", CROCE)
def outputs_are_logits(evidence: Evidence) -> Outcome:
    columns = evidence.columns("clean")
    total = columns["sum"].median()  # 1, or another factor of the probabilities
    same = (columns["sum"] - total).abs() < 1e-3 * total.abs()
    wrong = same & (columns["smallest"] >= 0)
    share = _share(wrong)
    numbers = {"median sum of the outputs": total.item(), "probability-like outputs": share}
    reason = f"the outputs are nonnegative with one sum on {_percent(share)} of the images"
    return Outcome(share <= FEW, numbers, reason, _at_most(wrong))


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
    flat = "flat logits flatten the loss that attacks maximize"
    reason = f"above chance, mean confidence is {ratio:.2f} times accuracy; {flat}"
    return Outcome(ratio >= FLAT, numbers, reason)


@check("Do targeted and untargeted attacks agree?", CROCE)
def targeted_and_untargeted_agree(evidence: Evidence) -> Outcome:
    names = ("APGD-CE", "PGD-20 margin", "PGD-20 rescaled", "APGD-T")
    *others, targeted = [evidence.attack(name).misclassified for name in names]
    untargeted = torch.stack(others).any(0)
    alone = max(_share(targeted & ~untargeted), _share(untargeted & ~targeted))
    errors = _share(targeted | untargeted) - (1 - evidence.clean.top1)
    share = alone / errors if errors > 0 else 0.0
    numbers = {f"accuracy, {name}": evidence.top1(name) for name in names}
    numbers |= {"misclassified under one kind only / under any": share}
    reason = f"{_percent(share)} of the errors are found by one kind of attack only"
    passes = share <= LOSS_SHARE or evidence.tolerates(alone, SMALL_CHANGE)
    return Outcome(passes, numbers, reason, share)


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
    return Outcome(mass >= LOW_MASS, numbers, reason)
