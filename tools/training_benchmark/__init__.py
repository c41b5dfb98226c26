"""Time per training step of every method and of reference code; Table 6 for any network.

    options.py         command-line options, without importing torch
    command.py         the measurement that they ask for
    trainee.py         the one network that all contestants train
    baselines.py       training steps in plain PyTorch, as the authors, torchvision and timm do them
    contestants.py     the rows: the package's methods, and the baselines
    rounds.py          contestants take turns within a budget; the clock
    processes.py       one process per device
    parts.py           how a step's time divides into parts
    added.py           what SPROUT adds to natural training
    step_times.py      tables, Markdown and JSON of the results
    machine.py tables.py malloc.py   shared with tests/benchmarks

``tools/benchmark_training.py`` is its command line.
"""
