"""Robustness evaluation: clean and robust accuracy, and an audit of whether to trust them.

::

    results = sprout_fast.evaluate(model, images, labels, protocol="strong", eps=8 / 255)
    print(results)
    results.save("evaluation")  # results.json
    sprout_fast.evaluation.write_report(results, "evaluation")  # report.html and figures
"""

from sprout_fast._lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__)
