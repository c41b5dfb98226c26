"""How long a training step takes, by every method and by others' code: Table 6 for any network.

    trainee.py       the one network that all contestants train
    baselines.py     others' steps in plain PyTorch: the authors' SPROUT, torchvision's, timm's
    contestants.py   the rows: the methods through the real training step, and the baselines
    rounds.py        who is measured how often, and the clock
    parts.py         where the time of a step goes
    added.py         what SPROUT adds to natural training
    published.py     the paper's seconds
    report.py        tables, Markdown, JSON
    machine.py tables.py memory.py   shared with tests/benchmarks

`tools/benchmark_training.py` is its command line.
"""
