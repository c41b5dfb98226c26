"""What a trained model is worth: exact counts, with the uncertainty of their number."""

from sprout_fast.evaluation.accuracy import Accuracy, Evaluation, evaluate_accuracy

__all__ = ["Accuracy", "Evaluation", "evaluate_accuracy"]
