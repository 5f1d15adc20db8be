"""From an error to the one line and the exit code that a user gets."""

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

from gapless.cli.launch import launched, leave_message
from gapless.cli.typed import as_typed
from gapless.cli.verbs import VERBS, first_words, parser_of, verb_of
from gapless.errors import ConfigError, DataError, GaplessError, LostProcessError, StoppedError, lost_process

NO_MEMORY = ("not enough memory", "out of memory", "can't allocate memory")
"""Words of torch's errors about memory, which have no type of their own."""


def failure_of(error: BaseException, arguments: Sequence[str], received: int | None) -> GaplessError | int | None:
    """What a user can do about an error, or the exit code where a signal ended the command; None for a bug.

    Args:
        error: that ended the command.
        arguments: of the command line.
        received: the signal that came first, if one did.
    """
    if isinstance(error, GaplessError):
        return error
    if received is not None:  # an error beside it comes of being interrupted
        verb = verb_of(launched(arguments, first_words()) if arguments[:1] == ["launch"] else arguments)
        if verb is None or not VERBS[verb].continues:
            return 128 + received
        return StoppedError("stopped by a signal before the first step; the same command begins again")
    if isinstance(error, OSError):  # no permission, disk full ...
        return DataError(f"{error.filename or 'file'}: {error.strerror or error}")
    if isinstance(error, SafetensorError):  # a damaged file, or a full disk, that was not named
        return DataError(f"a .safetensors file: {error}")
    if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
        return DataError(f"there is not enough memory ({str(error)[:200]}); smaller batches need less")
    return lost_process(error) if isinstance(error, RuntimeError) else None


def report_failure(error: GaplessError, verb: str | None, debug: bool) -> None:
    """Print the error of a verb in one line, once for all processes that have it."""
    rank = os.environ.get("RANK", "0")
    if debug:
        traceback.print_exc()
    text = " ".join(str(error).splitlines())  # names of files may hold line feeds
    with suppress(ConfigError):  # an extra that its arguments need is missing
        text = as_typed(text, parser_of(verb)) if verb else text
    if isinstance(error, LostProcessError):
        if not leave_message(text):
            print(f"gapless: error: {f'[process {rank}] ' * ('RANK' in os.environ)}{text}", file=sys.stderr)
    elif rank == "0":
        print(f"gapless: {text}" if isinstance(error, StoppedError) else f"gapless: error: {text}", file=sys.stderr)
    elif isinstance(error, DataError):  # all other errors are the same on every process
        print(f"gapless: error: [process {rank}] {text}", file=sys.stderr)


def leave_group() -> None:
    """End the process group in good order; after an error others may wait in it, and the launcher ends them."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        distributed.destroy_process_group()


def leave_code(code: int) -> None:
    """Leave the exit code in a file for the sweep that started this; accelerate launch turns every failure into 1."""
    path = os.environ.get("GAPLESS_EXIT_CODE_FILE")
    if path and os.environ.get("RANK", "0") == "0":
        Path(path).write_text(str(code))
