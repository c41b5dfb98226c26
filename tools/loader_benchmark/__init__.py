"""Images per second of the loaders on a data set, and what that is enough for.

    options.py       command-line options, without importing torch
    contestants.py   what is measured: loaders, and decoding alone
    command.py       turns, the table and the verdict

``tools/benchmark_loader.py`` is its command line.
"""
