"""Training: options, the loop, and what a run writes.

    command.py     the command lines of sprout-train-imagenet and sprout-train-cifar
    config.py      their options; recipes/ holds sets of defaults
    run.py         a run from options to the final report
    loop.py        the training loop, with step.py, optim.py and ema.py
    checkpoint.py, metrics.py, progress.py    what it saves, logs and shows

Nothing is imported here: the command lines answer ``--help`` before torch is imported.
"""
