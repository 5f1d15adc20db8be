"""What a person watches during training: speed and a progress bar."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


class Clock:
    """Pairs a second and waiting for data since it was made."""

    def __init__(self) -> None:
        self.started, self.samples, self.waited, self.steps = time.monotonic(), 0, 0.0, 0

    def waiting(self, batches: Iterator[T]) -> T:
        """Draw a batch and count the time that it took."""
        before = time.monotonic()
        batch = next(batches)
        self.waited += time.monotonic() - before
        self.steps += 1
        return batch

    def rates(self) -> dict[str, float]:
        """Pairs a second over all processes, and seconds a step that this process waited for data."""
        passed = max(time.monotonic() - self.started, 1e-9)
        return {
            "train/samples_per_second": round(self.samples / passed, 3),
            "train/data_time": round(self.waited / max(self.steps, 1), 6),
        }


@contextlib.contextmanager
def progress_bar(total: int, done: int, shown: bool) -> Iterator[Callable[[int, int, float], None]]:
    """A bar, if standard error is a terminal; call it with the steps done, the epoch and the loss."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal), transient=True) as bar:
        task = bar.add_task("training", total=total, completed=done)
        yield lambda step, epoch, loss: bar.update(task, completed=step, description=f"epoch {epoch} loss {loss:.4f}")
