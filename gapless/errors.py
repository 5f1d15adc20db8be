"""Errors that a user can act on. Each knows the exit code that the command line documents."""

import re
from collections.abc import Iterator
from contextlib import contextmanager


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
    """A loss, a gradient or a feature is NaN or infinite: training or evaluation stopped itself (exit code 4)."""

    exit_code = 4


class LostProcessError(GaplessError, RuntimeError):
    """A process of the run died, or was not heard of in the time that it is given (exit code 5)."""

    exit_code = 5


class StoppedError(GaplessError):
    """Stopped by a signal after saving; the same command resumes (exit code 75)."""

    exit_code = 75


SILENCE = "did not answer within the time limit"
SILENT = re.compile(r"timed? ?out", re.IGNORECASE)
GONE = re.compile(r"gloo/transport|closed by peer|reset by peer|broken pipe|got 0 bytes|nccl(Remote|System)Error")
LOADER = re.compile(r"DataLoader worker .*?(killed by signal: \w+|exited unexpectedly)")
"""How libraries tell, in plain RuntimeErrors, what happened to other processes."""


def lost_process(error: RuntimeError) -> LostProcessError | None:
    """What a library's error says about another process of the run; None if it is about something else."""
    text = str(error)
    reason = re.sub(r"^\[\S+:\d+\] ", "", text.strip().partition("\n")[0])
    loader = LOADER.search(text)
    if loader:
        return LostProcessError(
            f"a loader process was lost ({loader[1]}): there may be too little memory or shared memory for data.workers"
        )
    if SILENT.search(text):
        return LostProcessError(f"another process of the run {SILENCE} (train.timeout): {reason}")
    return LostProcessError(f"another process of the run died: {reason}") if GONE.search(text) else None


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Name what the processes did together where one of them is lost.

    Raises:
        LostProcessError: one died, or did not answer in time.
    """
    try:
        yield
    except RuntimeError as error:
        lost = lost_process(error)
        if lost is None:
            raise
        raise LostProcessError(f"{what}: {lost}") from error
