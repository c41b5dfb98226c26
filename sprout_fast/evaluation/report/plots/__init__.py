"""Figures of the report. A new one is a function under ``@register`` in a file of this folder."""
