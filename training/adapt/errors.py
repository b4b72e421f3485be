"""Errors of an adaptation; the command prints their message without a traceback.

AdaptError
├── CannotAdapt   the input does not fit (exit code 2)
├── NotBetter     the result has no lower word error rate, and is not published (exit code 1)
└── Stopped       a signal ended the training, whose state is saved (exit code 130)
"""


class AdaptError(Exception):
    """Base of the errors that a user can do something about."""

    exit_code = 1


class CannotAdapt(AdaptError):
    """Checkpoint, recordings or folders are not what an adaptation needs."""

    exit_code = 2


class NotBetter(AdaptError):
    """The adapted checkpoint gets as many words wrong as its base, or more."""


class Stopped(AdaptError):
    """Training was stopped with its state saved; the same command continues it."""

    exit_code = 130
