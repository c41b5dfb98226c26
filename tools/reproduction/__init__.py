"""The paper's tables and figures again: their chains of trainings and measurements, and the
paper's numbers beside ours.

    exhibits/table_7.py     what a table consists of: trainings, measurements, the paper's numbers
    scale.py                what --scale makes of the paper's sizes
    store.py                the output folder, in which nothing is done twice
    findings.py             runs what is missing, and answers for each cell
    plan.py, report.py      what is shown before and after
    run.py                  the tool's options

A new table is a file in exhibits/.
"""
