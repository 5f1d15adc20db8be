"""What SIGTERM and SIGINT do: in the training loop, in every other command, and in the processes that load data."""

import contextlib
import ctypes
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT)
ONE_WISH = 1.0
"""Seconds in which signals count as one: timeout and others signal a process, and then the group that it is in."""


class Ended(BaseException):
    """Raised by a signal wherever the command stands, so that what is half-written is cleared away."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class FirstSignal:
    """While entered, the first SIGTERM or SIGINT that this process gets calls ``act``; a later SIGINT interrupts.

    Args:
        act: called with the signal's number and the frame that it interrupts.
    """

    def __init__(self, act: Callable[[int, FrameType | None], None]) -> None:
        self.act = act
        self.received: int | None = None
        """The signal that came."""
        self._closed_at = math.inf
        self._owner = os.getpid()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "FirstSignal":
        if threading.current_thread() is not threading.main_thread():  # others may not set handlers
            return self
        self._previous = {number: signal.signal(number, self._handle) for number in STOPPING}
        outer = getattr(self._previous[signal.SIGTERM], "__self__", None)
        if isinstance(outer, FirstSignal) and outer.received is not None:  # and some library passed over it
            self._handle(outer.received, None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # inherited by a process that ends with this one and not before it
            return
        if self._closed_at == math.inf:
            self.received, self._closed_at = number, time.monotonic()
            self.act(number, frame)
        elif number == signal.SIGINT and time.monotonic() - self._closed_at > ONE_WISH:
            raise KeyboardInterrupt

    def close(self) -> None:
        """Take no first signal any more."""
        self._closed_at = min(self._closed_at, time.monotonic())

    def forget(self) -> None:
        """Take the next signal as the first."""
        self.received, self._closed_at = None, math.inf


class StopFlag:
    """While entered, the first SIGTERM or SIGINT sets ``is_set``; a later SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.is_set = False
        self._signal = FirstSignal(self._set)

    def __enter__(self) -> "StopFlag":
        self._signal.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signal.__exit__(kind, error, trace)

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.is_set = True


@contextlib.contextmanager
def ended_by_signals(to_the_end: bool) -> Iterator[FirstSignal]:
    """Within it the first SIGTERM or SIGINT raises :class:`Ended`; a later SIGINT interrupts what clears away.

    Args:
        to_the_end: the process ends after this, and no signal is to change its exit code any more.

    Yields:
        The handler, which knows whether a signal came.
    """

    def end(number: int, frame: FrameType | None) -> None:
        if _imports(frame):  # half a module is not to stay, and imports catch what they do not expect
            handler.forget()
            threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
        else:
            raise Ended(number)

    handler = FirstSignal(end)
    handler.__enter__()
    try:
        yield handler
    finally:
        if to_the_end:
            handler.close()
        else:
            handler.__exit__(None, None, None)


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def let_in() -> None:
    """Take signals that a launcher holds back until somebody listens."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Within it SIGTERM and SIGINT wait; processes that are started in it never get them, unless they let them in."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def obey_parent_only(worker: int = 0) -> None:
    """Called in a loader process: it ends when its parent says so or is gone, and passes over all other signals.

    Schedulers and terminals signal all processes at once, and the training process needs its loaders until it has
    saved. torch's own handler, which is set before this is called, would end them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    sys.excepthook = _excepthook
    if hasattr(signal, "sigtimedwait"):  # not on macOS
        threading.Thread(target=_wait_for_parent, args=(os.getppid(),), daemon=True).start()


def _excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say nothing of a parent that went away; errors of the loader itself reach the parent."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def _wait_for_parent(parent: int) -> None:
    while os.getppid() == parent:
        received = signal.sigtimedwait(STOPPING, 2.0)
        if received and received.si_signo == signal.SIGTERM and received.si_pid == parent:
            break
    os._exit(0)


def end_with_parent() -> None:
    """Have the system send this process SIGTERM when its parent ends, however that ends (Linux only)."""
    if sys.platform == "linux":
        set_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_death_signal, int(signal.SIGTERM), 0, 0, 0)
