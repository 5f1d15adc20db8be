"""SIGTERM and SIGINT as a flag that the training loop looks at."""

import os
import signal
from types import FrameType, TracebackType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT)


class StopFlag:
    """While entered, the first SIGTERM or SIGINT sets ``is_set``; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.is_set = False
        self._owner = os.getpid()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopFlag":
        self._previous = {number: signal.signal(number, self._handle) for number in STOPPING}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Loader processes inherit this handler; they end with the training process and not before it.
        if os.getpid() != self._owner:
            return
        if self.is_set and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.is_set = True
