"""Errors of an adaptation or of training heads; commands print their message without a traceback.

AdaptError
├── CannotAdapt   the input does not fit (exit code 2)
├── NotBetter     the result is not better than before, and was not published (exit code 1)
└── Stopped       a signal ended the training, whose state is saved (exit code 130)
"""


class AdaptError(Exception):
    """Base of the errors that a user can correct."""

    exit_code = 1


class CannotAdapt(AdaptError):
    """Checkpoint, recordings or folders do not meet the requirements of the training."""

    exit_code = 2


class NotBetter(AdaptError):
    """The adapted checkpoint has no fewer word errors, or a head no more correct labels."""


class Stopped(AdaptError):
    """Training was stopped with its state saved; the same command continues it."""

    exit_code = 130
