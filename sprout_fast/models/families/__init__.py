"""Families of architectures, each a module that registers one in ``FAMILIES``."""
