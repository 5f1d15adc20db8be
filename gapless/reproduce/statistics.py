"""Means over seeds with their standard error, and what a paired comparison over seeds decides."""

import math
import statistics
from collections.abc import Sequence
from typing import Literal, NamedTuple

from scipy.stats import t as student

from gapless.measures import measure_of

Direction = Literal["low", "high", "equal"]


class Estimate(NamedTuple):
    """A mean over seeds."""

    mean: float
    error: float | None = None
    """Standard error, std(ddof=1) / sqrt(n); None for one seed."""

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.error is None else f"{self.mean:.3f} ± {self.error:.3f}"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and standard error of n values."""
    mean = statistics.fmean(values)
    return Estimate(mean, statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None)


def better(metric: str) -> Direction:
    """The direction of a claim that a metric becomes better.

    Raises:
        ValueError: neither is better.
    """
    direction = measure_of(metric).direction
    if not direction:
        raise ValueError(f"{metric} has no direction that is better")
    return direction


class Comparison(NamedTuple):
    """A paired comparison."""

    difference: float
    """Mean of one - other."""
    low: float
    high: float
    """Ends of the 95 % confidence interval, infinite for one pair."""
    n: int
    verdict: str
    """holds, does not hold, or not decided."""


def compare(
    one: Sequence[float], other: Sequence[float], claim: Direction, margin: float = 0.02, level: float = 0.95
) -> Comparison:
    """Whether a claim about the mean of one - other holds, by its paired t interval.

    Args:
        one: n values.
        other: n values, each of the same seed and setting as its partner.
        claim: low or high if one is claimed to be lower or higher, which holds if the whole interval says so and does
            not hold if the whole interval says the opposite; equal if they are claimed to differ by less than the
            margin, which holds if the whole interval does.
        margin: of equal.
        level: of the interval.

    Raises:
        ValueError: n is 0, or not the same.
    """
    differences = [a - b for a, b in zip(one, other, strict=True)]
    mean, error = estimate(differences)
    n = len(differences)
    half = math.inf if error is None else float(student.ppf((1 + level) / 2, n - 1)) * error
    low, high = mean - half, mean + half
    if claim == "equal":
        holds, fails = -margin < low and high < margin, high < -margin or low > margin
    else:
        holds, fails = (high < 0, low > 0) if claim == "low" else (low > 0, high < 0)
    return Comparison(mean, low, high, n, "holds" if holds else "does not hold" if fails else "not decided")
