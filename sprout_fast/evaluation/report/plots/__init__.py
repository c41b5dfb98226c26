"""Figures of the report. A new one is a file here, with a function under ``@register``."""
