#!/usr/bin/env python
"""Measure the robustness of a trained model, and check whether the measurement can be trusted.

python tools/evaluate_robustness.py --checkpoint run/best.pt --protocol all --limit 200
python tools/evaluate_robustness.py --checkpoint resnet50.pth --arch resnet50 --data /imagenet
python tools/evaluate_robustness.py --checkpoint run/best.pt --surrogate natural/best.pt
"""

import sys

from sprout_fast.evaluation.command import main

if __name__ == "__main__":
    sys.exit(main())
