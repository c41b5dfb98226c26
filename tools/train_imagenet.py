#!/usr/bin/env python
"""Train an image classifier on ImageNet or any image folder; same as ``sprout-train-imagenet``.

python tools/train_imagenet.py                                    # sample set, a few minutes
python tools/train_imagenet.py --arch resnet50 --data /imagenet --weights resnet50.pth
torchrun --nproc-per-node 8 tools/train_imagenet.py --data /imagenet --out run
python tools/train_imagenet.py --resume run/last.pt
"""

import sys

from sprout_fast.training.command import train_imagenet

if __name__ == "__main__":
    sys.exit(train_imagenet())
