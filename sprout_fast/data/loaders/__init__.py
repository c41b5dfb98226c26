"""Loaders: one module per loader, each registered in ``LOADERS``."""
