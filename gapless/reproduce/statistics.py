"""Means over seeds with their standard error, and what comparisons over seeds decide about claims."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from scipy.stats import t as student

from gapless.measures import measure_of

Direction = Literal["low", "high", "equal"]
LEVEL = 0.05
"""Probability of error of all verdicts of a table together."""
DECIDING_SEEDS = 5
"""With fewer a paired t over seeds and Holm's correction can decide next to nothing."""


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


@dataclass(frozen=True)
class Comparison:
    """A paired comparison over seeds."""

    difference: float
    """Mean of one - other."""
    error: float
    """Standard error of the difference: over the seeds, and of the test set; infinite for one seed."""
    freedom: float
    """Degrees of freedom of the error."""
    n: int
    """Seeds."""
    claim: Direction
    margin: float = 0.0
    """Of equal; and how much worse may count as low or high."""

    def interval(self, level: float = 1 - LEVEL) -> tuple[float, float]:
        """The t interval of the difference; infinite for one seed."""
        half = math.inf if math.isinf(self.error) else float(student.ppf((1 + level) / 2, self.freedom)) * self.error
        return self.difference - half, self.difference + half

    @property
    def evidence(self) -> tuple[float, float]:
        """The p-values of the claim and of its opposite, each the smaller, the surer it is.

        Lower and higher are two-sided tests, of a difference from zero or from the margin. Equal is Schuirmann's two
        one-sided tests (TOST): both ends of its 90 % interval lie within the margin where p is below 5 %; its opposite
        is a difference beyond the margin.
        """
        if self.claim == "equal":
            within = max(self._above(-self.margin), self._below(self.margin))
            return within, min(1.0, 2 * min(self._above(self.margin), self._below(-self.margin)))
        bound = self.margin if self.claim == "low" else -self.margin
        lower, higher = min(1.0, 2 * self._below(bound)), min(1.0, 2 * self._above(bound))
        return (lower, higher) if self.claim == "low" else (higher, lower)

    def _above(self, bound: float) -> float:
        """One-sided p-value of a difference above a bound."""
        return self._tail(self.difference - bound)

    def _below(self, bound: float) -> float:
        """One-sided p-value of a difference below a bound."""
        return self._tail(bound - self.difference)

    def _tail(self, distance: float) -> float:
        if math.isinf(self.error) or self.error == 0.0:  # of whole numbers that agree: nothing is known of other seeds
            return 1.0
        return float(student.sf(distance / self.error, self.freedom))


def compare(
    one: Sequence[float],
    other: Sequence[float],
    claim: Direction,
    margin: float = 0.0,
    sampling: tuple[float, float] = (0.0, math.inf),
) -> Comparison:
    """One objective against another, paired by seeds.

    Two errors are added: that of the mean over seeds, and that of the test set, which all seeds share. The degrees of
    freedom of the sum are Welch's and Satterthwaite's.

    Args:
        one: n values.
        other: n values, each of the same seed as its partner.
        claim: low or high if one is claimed to be lower or higher; equal if they are claimed to differ by less than
            the margin.
        margin: of equal; of low or high, how much worse counts as no worse (0 for a strict claim).
        sampling: variance of the mean difference over test sets, and its degrees of freedom.

    Raises:
        ValueError: n is 0, or not the same.
    """
    differences = [a - b for a, b in zip(one, other, strict=True)]
    mean, error = estimate(differences)
    n = len(differences)
    if error is None:
        return Comparison(mean, math.inf, 1.0, n, claim, margin)
    parts = ((error**2, n - 1), sampling)
    variance = sum(v for v, _ in parts)
    freedom = variance**2 / total if (total := sum(v**2 / f for v, f in parts)) else math.inf
    return Comparison(mean, math.sqrt(variance), freedom, n, claim, margin)


def verdicts(comparisons: Sequence[Sequence[Comparison]], level: float = LEVEL) -> list[str]:
    """What is decided about claims, each of which is to hold in every one of its comparisons.

    A claim holds if all of its comparisons do, and does not hold if one is the opposite. Holm's step-down procedure
    over all comparisons of all claims keeps the probability of any error below the level.

    Args:
        comparisons: of each claim, one for each setting.
        level: of all verdicts together.

    Returns:
        holds, does not hold or not decided, for each claim.
    """
    from statsmodels.stats.multitest import multipletests  # takes seconds, which other commands should not wait

    tests = [min(c.evidence) for of_claim in comparisons for c in of_claim]
    decided = iter(multipletests(tests, level, method="holm")[0].tolist() if tests else [])
    words = []
    for of_claim in comparisons:
        outcomes = [(c.evidence[0] <= c.evidence[1]) if next(decided) else None for c in of_claim]
        holds, fails = bool(outcomes) and all(outcomes), any(outcome is False for outcome in outcomes)
        words.append("holds" if holds else "does not hold" if fails else "not decided")
    return words
