#!/usr/bin/env python
"""Decode every image of a data set and report those that training would refuse or convert.

python tools/verify_data.py /imagenet --workers 16
python tools/verify_data.py cifar10_images.tar
"""

from __future__ import annotations

import sys

from sprout_fast.data.command import main

if __name__ == "__main__":
    sys.exit(main())
