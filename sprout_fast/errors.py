"""Errors that one line explains; the command lines report them without a traceback."""

from __future__ import annotations

import functools


class UserError(ValueError):
    """A mistake that the user can correct: a missing folder, an unknown name, a wrong file.

    The command lines print it in one line, without a traceback, and exit with status 2. The message
    says what is wrong, what was given and what is expected.

    Args:
        message: One sentence. With ``option``, it starts with the option's value.
        option: The parameter at fault, as spelled in Python, with which the text then starts; a
            command line prints its flag instead (``--batch-size`` for ``batch_size``).

    >>> raise UserError("64: larger than the training set (50 images)", option="batch_size")
    Traceback (most recent call last):
    sprout_fast.errors.UserError: batch_size 64: larger than the training set (50 images)
    """

    def __init__(self, message: str, *, option: str | None = None) -> None:
        super().__init__(message)
        self.message, self.option = message, option

    def __str__(self) -> str:
        return self.message if self.option is None else f"{self.option} {self.message}"

    def __reduce__(self) -> tuple:
        # Keyword arguments would not survive a trip from a worker process.
        return functools.partial(UserError, option=self.option), (self.message,)


class FatalError(RuntimeError):
    """A run that cannot continue, such as a loss that is not finite: one line, exit status 1."""
