"""One group of processes at a time in a run's folder."""

import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gapless.errors import DataError
from gapless.run_folder import LOCK, writing

logger = logging.getLogger(__name__)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within it no other process can enter the folder's lock; a killed process leaves none behind.

    Folders that are missing are made, and go again if nothing was put into them.

    Raises:
        DataError: another process holds the lock.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
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
        try:
            with writing(folder / LOCK):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}")
                file.flush()
            yield
        finally:
            if os.listdir(folder) == [LOCK]:
                (folder / LOCK).unlink()
                for place in made:
                    if not os.listdir(place):
                        place.rmdir()
