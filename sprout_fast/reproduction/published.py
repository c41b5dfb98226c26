"""The SPROUT paper's numbers, as they stand in it: Cheng et al., AAAI 2021.

Accuracies in percent, cosines in [-1,1]. Training times are in `sprout_fast.benchmark.published`.
"""

from __future__ import annotations

#: Table 2, CIFAR-10: clean, PGD-20, PGD-100, PGD-200, 10x PGD-100 at eps 0.03.
TABLE_2 = {
    "vgg16": {
        "natural": (93.34, 0.6, 0.1, 0.0, 0.0),
        "pgd_at": (80.32, 36.63, 36.29, 36.01, 36.8),
        "trades": (84.85, 38.81, 38.21, 37.95, 37.94),
        "sprout": (89.15, 62.24, 58.93, 57.9, 58.08),
    },
    "wrn34_10": {
        "natural": (95.93, 0.0, 0.0, 0.0, 0.0),
        "pgd_at": (87.25, 45.91, 45.32, 45.02, 44.98),
        "trades": (84.92, 56.23, 56.13, 55.96, 56.01),
        "sprout": (90.56, 66.23, 64.58, 64.30, 64.32),
    },
}

#: Table 3: accuracy under attacks made on a natural model of the same network.
TABLE_3 = {
    "vgg16": {"pgd_at": 79.13, "trades": 83.53, "sprout": 86.28},
    "wrn34_10": {"pgd_at": 85.84, "trades": 83.9, "sprout": 89.1},
}

#: Tables 4 and 10, ImageNet: clean, random-target PGD at eps 0.005, 0.01, 0.015, 0.02.
TABLE_4 = {
    "natural": (78.31, 37.13, 9.14, 2.12, 0.78),
    "sprout": (74.23, 65.24, 52.86, 35.04, 12.18),
}
TABLE_10 = {
    "natural": (76.15, 24.37, 3.54, 0.90, 0.40),
    "free_at": (60.49, 51.35, 42.29, 32.96, 24.45),
    "sprout": (61.23, 51.69, 38.14, 25.98, 18.52),
}

#: Table 5, Wide ResNet: rotation 10 degrees, brightness x 1.5, contrast x 2, grey.
TABLE_5 = {
    "natural": (88.21, 93.4, 91.88, 91.95),
    "pgd_at": (82.66, 83.64, 84.99, 81.08),
    "trades": (80.81, 81.5, 83.08, 79.27),
    "sprout": (85.95, 88.26, 86.98, 81.64),
}

#: Table 7, VGG-16, by modules of SPROUT: PGD-20, PGD-100.
TABLE_7 = {
    "ga": (12.44, 9.46),
    "mixup": (0.76, 0.08),
    "dirichlet": (29.64, 9.77),
    "ga,mixup": (41.88, 40.29),
    "mixup,dirichlet": (17.53, 7.97),
    "ga,dirichlet": (55.27, 53.79),
    "ls": (15.36, 5.12),
    "ga,mixup,dirichlet": (62.64, 58.93),
}

#: Table 8 and Fig. 1: clean, l-inf at 0.03, C&W, contrast; and seconds.
TABLE_8 = {
    "natural": (95.93, 0.0, 26.95, 91.88, 146.7),
    "pgd_at": (84.92, 36.29, 70.13, 84.99, 1327.1),
    "trades": (88.6, 38.29, 75.08, 83.08, 1932.5),
    "sprout": (90.56, 58.93, 72.7, 86.98, 271.7),
}

#: Table 9, Wide ResNet, PGD-20 at eps 0.03 with 1, 3, 5, 8, 10 random starts.
TABLE_9 = {
    "pgd_at": (45.88, 45.67, 45.52, 45.52, 45.21),
    "trades": (57.02, 56.84, 56.77, 56.7, 56.7),
    "sprout": (64.58, 62.53, 61.98, 61.38, 61.00),
}
#: Beside it, in the text: SPROUT under PGD-100 with 10 random starts.
TABLE_9_SPROUT_100_STEPS = 61.18

#: Table 11: mean cosine of the input gradients of two modules.
TABLE_11 = {"dirichlet_mixup": 0.1023, "dirichlet_ga": 0.0163, "mixup_ga": 0.0111}
