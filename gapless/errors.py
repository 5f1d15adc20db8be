"""Errors that a user can act on. Each knows the exit code that the command line documents."""


class GaplessError(Exception):
    """Something the user can fix: the message names the key or file and what to do."""

    exit_code = 1


class ConfigError(GaplessError, ValueError):
    """Bad arguments or configuration (exit code 2)."""

    exit_code = 2


class DataError(GaplessError, ValueError):
    """Bad or missing data or weights (exit code 3)."""

    exit_code = 3


class NonFiniteError(GaplessError, ArithmeticError):
    """A loss or gradient became NaN or infinite and training stopped itself (exit code 4)."""

    exit_code = 4


class StoppedError(GaplessError):
    """Stopped by a signal after saving; the same command resumes (exit code 75)."""

    exit_code = 75
