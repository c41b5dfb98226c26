"""Readers: what a data set on disk consists of."""
