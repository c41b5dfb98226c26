"""Robustness evaluation: clean and robust accuracy, and an audit of whether to trust them.

::

    results = sprout_fast.evaluate(model, images, labels, protocol="strong", eps=8 / 255)
    print(results)
    results.save("evaluation")  # results.json
    sprout_fast.evaluation.write_report(results, "evaluation")  # report.html and figures
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sprout_fast._lazy import attach as _attach

if TYPE_CHECKING:
    from sprout_fast.evaluation.accuracy import Accuracy as Accuracy
    from sprout_fast.evaluation.accuracy import MeasuredAccuracy as MeasuredAccuracy
    from sprout_fast.evaluation.accuracy import measure_accuracy as measure_accuracy
    from sprout_fast.evaluation.protocols import PROTOCOLS as PROTOCOLS
    from sprout_fast.evaluation.report.html import write_report as write_report
    from sprout_fast.evaluation.results import Results as Results
    from sprout_fast.evaluation.run import evaluate as evaluate
    from sprout_fast.evaluation.subject import Subject as Subject
else:
    __getattr__, __dir__, __all__ = _attach(
        __name__,
        {
            "accuracy": ["Accuracy", "MeasuredAccuracy", "measure_accuracy"],
            "protocols": ["PROTOCOLS"],
            "report.html": ["write_report"],
            "results": ["Results"],
            "run": ["evaluate"],
            "subject": ["Subject"],
        },
    )
