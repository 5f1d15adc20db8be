"""One group of processes at a time in a run's folder."""

import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gapless.errors import DataError
from gapless.run_folder import LOCK

logger = logging.getLogger(__name__)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within it no other process can enter the folder's lock; a killed process leaves none behind.

    The folder is made if it is missing, and goes again if nothing was put into it.

    Raises:
        DataError: another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as file:
        try:
            # Not flock: loader processes would inherit it, and hold it for seconds after this process was killed.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise DataError(f"{folder} is in use by {owner}; stop it, or give this run another name") from None
        except OSError as error:
            logger.warning("%s cannot be locked (%s): let no other process train there", folder, error.strerror)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            if folder.is_dir() and os.listdir(folder) == [LOCK]:
                (folder / LOCK).unlink()
                folder.rmdir()
