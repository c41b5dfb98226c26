"""What a trained model is worth: exact counts, clean and attacked, and whether to believe them.

results = evaluate(model, images, labels, protocol="strong", eps=8 / 255)
print(results)
results.save("report")
"""

from sprout_fast.evaluation.accuracy import Accuracy, Evaluation, evaluate_accuracy
from sprout_fast.evaluation.evaluate import evaluate
from sprout_fast.evaluation.protocols import PROTOCOLS
from sprout_fast.evaluation.results import Results
from sprout_fast.evaluation.subject import Subject

__all__ = [
    "PROTOCOLS",
    "Accuracy",
    "Evaluation",
    "Results",
    "Subject",
    "evaluate",
    "evaluate_accuracy",
]
