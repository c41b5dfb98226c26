"""Loaders: batches of one split, in a reproducible order that resumes."""
