"""The one exception that stands for a mistake of the user."""


class UserError(Exception):
    """A mistake that the user can mend: a missing folder, an unknown name, a wrong file.

    The command lines print its message in one line, without a traceback, and exit with status 2.
    The message names the thing, what was got and what is taken.

    >>> from sprout_fast.errors import UserError
    >>> raise UserError("--data photos: no such folder")
    Traceback (most recent call last):
    sprout_fast.errors.UserError: --data photos: no such folder
    """
