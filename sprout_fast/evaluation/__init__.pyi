from .accuracy import Accuracy as Accuracy
from .accuracy import MeasuredAccuracy as MeasuredAccuracy
from .accuracy import measure_accuracy as measure_accuracy
from .protocols import PROTOCOLS as PROTOCOLS
from .report.html import write_report as write_report
from .results import Results as Results
from .run import evaluate as evaluate
from .subject import Subject as Subject
