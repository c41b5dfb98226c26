"""The study: what SPROUT's training buys, under the paper's attack and under strong ones.

stages.py    which networks are trained, from which weights, with which options
chain.py     trains and evaluates what is not there yet
page.py      the tables and figures of docs/results.md
options.py   the program's options
"""
