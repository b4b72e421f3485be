"""Errors of an adaptation, or of training heads; commands print their message, no traceback.

AdaptError
├── CannotAdapt   the input does not fit (exit code 2)
├── NotBetter     the result is no better than what was there, and not published (exit code 1)
└── Stopped       a signal ended the training, whose state is saved (exit code 130)
"""


class AdaptError(Exception):
    """Base of the errors that a user can do something about."""

    exit_code = 1


class CannotAdapt(AdaptError):
    """Checkpoint, recordings or folders are not what the training needs."""

    exit_code = 2


class NotBetter(AdaptError):
    """The adapted checkpoint gets no fewer words wrong, or a head no more recordings right."""


class Stopped(AdaptError):
    """Training was stopped with its state saved; the same command continues it."""

    exit_code = 130
