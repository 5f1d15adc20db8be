"""What the runs of an experiment scored, and how sure their differences are on another test set."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from gapless.eval.compare import bootstrap_error
from gapless.reproduce.grid import vouched
from gapless.reproduce.statistics import Comparison, Direction, compare


@dataclass(frozen=True)
class Scored:
    """The numbers that a run's plan came to, by short names, and what intervals are taken over."""

    numbers: dict[str, float]
    """``<data set>/<metric>`` of zero-shot data sets and of arithmetic, and ``zero_shot/<metric>`` and ``simat``,
    their means; the scores of pairs keep their names."""
    samples: dict[str, Tensor]
    """(N,), by the same names."""
    groups: dict[str, Tensor]
    """Of samples that are no independent ones, int64 (N,)."""
    means: dict[str, list[str]]
    """What the means are over."""

    def times(self, factor: float) -> "Scored":
        """All scores so many times as large."""
        numbers = {name: factor * value for name, value in self.numbers.items()}
        return replace(self, numbers=numbers, samples={name: factor * rows for name, rows in self.samples.items()})


MEANS = {
    "zeroshot_classification": {
        metric: f"zero_shot/{metric}" for metric in ("acc1", "centroid_distance", "uniformity_image")
    },
    "embedding_arithmetic": {"simat_score@1": "simat"},
}
"""Scores of a task that are averaged over its data sets, and what their mean is called."""


def scores(folder: Path, pairs: str) -> Scored:
    """What a run scored.

    Args:
        folder: of the run.
        pairs: data set whose gap and retrieval scores keep their names.
    """
    scored = Scored({}, {}, {}, {})
    for result in vouched(folder):
        if result.task not in MEANS and result.dataset != pairs:
            continue
        place = "" if result.dataset == pairs else f"{result.dataset}/"
        scored.numbers.update({f"{place}{name}": value for name, value in result.metrics.items()})
        scored.samples.update({f"{place}{name}": values for name, values in result.samples.items()})
        scored.groups.update({f"{place}{name}": rows for name, rows in result.groups.items()})
        for metric, mean in MEANS.get(result.task, {}).items():
            if metric in result.metrics:
                scored.means.setdefault(mean, []).append(f"{place}{metric}")
    for name, parts in scored.means.items():
        scored.numbers[name] = sum(scored.numbers[part] for part in parts) / len(parts)
    return scored


def sampling_error(ones: Sequence[Scored], others: Sequence[Scored], metric: str) -> tuple[float, float]:
    """What another test set would change: the variance of the mean difference of some runs, and its freedom.

    The runs are scored on the same samples, so that their differences are averaged sample by sample first; then
    groups of samples are drawn anew. A mean over data sets has the mean of their errors.

    Args:
        ones: runs of one objective.
        others: of another, seed by seed.
        metric: one that has samples, or a mean of such.

    Returns:
        Nothing, with infinite degrees of freedom, for a metric without samples.
    """
    parts = ones[0].means.get(metric, [metric])
    variance, freedom = 0.0, math.inf
    for part in parts:
        pairs = [(a.samples.get(part), b.samples.get(part)) for a, b in zip(ones, others, strict=True)]
        differences = [a - b for a, b in pairs if a is not None and b is not None and len(a) == len(b)]
        if len(differences) < len(pairs):
            continue
        error, groups = bootstrap_error(torch.stack(differences).mean(dim=0), ones[0].groups.get(part))
        if groups > 1:  # one group says nothing about others
            variance, freedom = variance + (error / len(parts)) ** 2, min(freedom, groups - 1)
    return variance, freedom


def compare_runs(
    ones: Mapping[int, Scored], others: Mapping[int, Scored], metric: str, claim: Direction, margin: float = 0.0
) -> Comparison | None:
    """:func:`compare` of a metric of two objectives with the error of the test set.

    Args:
        ones: runs of one, by seed.
        others: of the other; what both have is compared.
        metric: of theirs.
        claim: as of :func:`compare`.
        margin: of equal.

    Returns:
        None if no seed has the metric in both.
    """
    pairs = [(one, others[seed]) for seed, one in ones.items() if seed in others]
    pairs = [(a, b) for a, b in pairs if metric in a.numbers and metric in b.numbers]
    if not pairs:
        return None
    first, second = [one for one, _ in pairs], [other for _, other in pairs]
    values = [[run.numbers[metric] for run in side] for side in (first, second)]
    return compare(values[0], values[1], claim, margin, sampling_error(first, second, metric))
