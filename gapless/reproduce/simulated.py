"""What a simulation returns."""

from collections.abc import Callable
from dataclasses import dataclass, field

Curves = dict[str, dict[str, tuple[list[float], list[float]]]]
"""Charts by title: lines by name, x and y."""
Progress = Callable[[float], None]


@dataclass
class Simulated:
    """The outcome of a simulation."""

    numbers: dict[str, float]
    published: dict[str, float] = field(default_factory=dict)
    """The paper's values of the same names, or of its authors' code."""
    curves: Curves = field(default_factory=dict)


def no_progress(share: float) -> None:
    """For callers that show no progress."""
