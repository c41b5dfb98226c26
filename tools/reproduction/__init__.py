"""The paper's tables and figures, reproduced with the paper's numbers next to the measured ones.

    options.py             command-line options, without importing torch
    command.py             plans, runs and reports what they ask for
    exhibits/table_7.py    what a table consists of: trainings, measurements, the paper's numbers
    scale.py               the paper's sizes at a smaller scale
    datasets.py            the paper's data sets
    training.py            one training, identified by everything its weights depend on
    subset_folder.py       a subset of a data set as an image folder
    store.py               the output folder, which keeps finished work
    findings.py            runs what is missing and returns the value of each cell
    locks.py               lets several processes share the output folder
    plan.py                the estimated cost, shown before the run
    what_ran.py            sizes and options of what ran, in sentences
    side_by_side.py        the results, shown and written after the run

A new table is a new file in exhibits/. ``tools/reproduce_paper.py`` is the command line.
"""
