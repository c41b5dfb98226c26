"""Failures of a run that are not the user's mistake and still need no traceback."""


class FatalError(RuntimeError):
    """A failure that one line explains, as a loss that is not finite; exit status 1."""
