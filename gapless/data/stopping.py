"""SIGTERM and SIGINT while shards are written."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_flag() -> Iterator[threading.Event]:
    """An event that is set once this process gets SIGTERM or SIGINT."""
    stopped, owner = threading.Event(), os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            stopped.set()

    if threading.current_thread() is not threading.main_thread():  # others may not set handlers
        yield stopped
        return
    previous = {number: signal.signal(number, handle) for number in STOPPING}
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def ignore_signals(worker: int) -> None:
    """Let a loader process end with its parent, which tells it to, and not before."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
