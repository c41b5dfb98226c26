#!/usr/bin/env python
"""Train an image classifier on CIFAR or other small images; same as ``sprout-train-cifar``.

python tools/train_cifar.py --data cifar10_images.tar --arch cifar_resnet20 --method trades
python tools/train_cifar.py --data /cifar --recipe paper --weights natural/best.pt
python tools/train_cifar.py --data /cifar --modules ga,mixup --epochs 20
python tools/train_cifar.py --data /cifar --resume run/last.pt
"""

import sys

from sprout_fast.training.command import train_cifar

if __name__ == "__main__":
    sys.exit(train_cifar())
