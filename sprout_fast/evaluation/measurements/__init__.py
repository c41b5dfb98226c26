"""Measurements of a model, image by image. A new one is a subclass of ``Measurement``."""

from sprout_fast.evaluation.measurements.attack import AttackMeasurement
from sprout_fast.evaluation.measurements.base import Batch, Measurement
from sprout_fast.evaluation.measurements.clean import Clean
from sprout_fast.evaluation.measurements.diversity import Diversity
from sprout_fast.evaluation.measurements.gradients import Gradients
from sprout_fast.evaluation.measurements.invariance import Invariance
from sprout_fast.evaluation.measurements.landscape import Landscape
from sprout_fast.evaluation.measurements.stability import Stability

__all__ = [
    "AttackMeasurement",
    "Batch",
    "Clean",
    "Diversity",
    "Gradients",
    "Invariance",
    "Landscape",
    "Measurement",
    "Stability",
]
