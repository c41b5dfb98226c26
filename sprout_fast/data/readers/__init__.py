"""Readers: one module per kind of data set, each registered in ``READERS``."""
