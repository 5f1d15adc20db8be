"""Results side by side: which of them are of the same evaluation, and how sure a difference is."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import bootstrap
from torch import Tensor

from gapless.errors import ConfigError
from gapless.eval.results import Result, load_results

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What some models scored at one task on one data set under the same settings."""

    label: str
    """Data set, task, and settings that are not the defaults."""
    results: Mapping[str, Result]
    """By the name of the model's column."""

    @property
    def title(self) -> str:
        """The same over a table."""
        result = next(iter(self.results.values()))
        name = f"{result.dataset} {result.task}"
        return f"{result.dataset}: {result.task.replace('_', ' ')}{self.label.removeprefix(name)}"

    @property
    def same_samples(self) -> bool:
        """Whether all scores are over the same samples, as far as the results know."""
        sets, counts = ({getattr(r, name) for r in self.results.values()} for name in ("sample_set", "num_samples"))
        return len(sets - {""}) <= 1 and len(counts - {0}) <= 1

    def metrics(self) -> dict[str, dict[str, float]]:
        """The value of each model, by metric."""
        rows: dict[str, dict[str, float]] = {}
        for name, result in self.results.items():
            for metric, value in result.metrics.items():
                rows.setdefault(metric, {})[name] = value
        return rows


def columns(folders: Mapping[str, Path]) -> dict[str, list[Result]]:
    """Results of every model in some folders, by the name of its column.

    A folder's own model has the folder's name: the export of a run, or the only model there is. What else lies there,
    checkpoints and models between two others, gets columns of its own.

    Args:
        folders: of runs, exports, checkpoints or results, by name.

    Raises:
        DataError: a folder has no results.
    """
    of_columns: dict[str, list[Result]] = {}
    for name, folder in folders.items():
        models: dict[tuple[str, str, str], list[Result]] = {}
        for result in load_results(folder):
            place = result.weights or result.pretrained
            models.setdefault((result.model, place if not result.variant else "", result.variant), []).append(result)
        own = [model for model in models if not model[2]] if len(models) > 1 else list(models)
        for (model, place, variant), results in sorted(models.items(), key=lambda model: model[0][2] != ""):
            alike = [m for m, _, v in models if (m, v) == (model, variant)]
            full = f"{name}@{variant}" if variant else f"{name}/{model}" + (f" {place}" if len(alike) > 1 else "")
            column = name if len(own) == 1 and own[0] == (model, place, variant) else full
            of_columns.setdefault(column, []).extend(results)
    return of_columns


def named(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders by their names, or by their paths where names are the same.

    Raises:
        ConfigError: a folder is given twice.
    """
    names = [folder.resolve().name for folder in folders]
    by_name = {str(f) if names.count(n) > 1 else n: f for n, f in zip(names, folders, strict=True)}
    if len(by_name) < len(folders):
        raise ConfigError(f"compare: {', '.join(map(str, folders))}: a folder is named twice")
    return by_name


def evaluations(columns: Mapping[str, Sequence[Result]]) -> list[Evaluation]:
    """What models were scored at; scores under different settings are different evaluations.

    Args:
        columns: results of each model, by its name.
    """
    doubled = {
        label for results in columns.values() for label, n in Counter(r.label for r in results).items() if n > 1
    }  # the same on other data, which the location tells apart
    rows: dict[str, dict[str, Result]] = {}
    for name, results in columns.items():
        for result in results:
            label = f"{result.label} of {result.data}" if result.label in doubled and result.data else result.label
            other = rows.setdefault(label, {}).get(name)
            if other is not None:
                result = _newer(other, result)
            rows[label][name] = result
    return [Evaluation(label, by_name) for label, by_name in rows.items()]


def _newer(one: Result, other: Result) -> Result:
    """Of two files of the same evaluation, which older versions wrote, the later one; the log says which."""
    first, second = sorted((one, other), key=lambda r: r.path.stat().st_mtime_ns if r.path else 0)
    logger.warning("%s: %s is read, the older %s is not", second.label, second.path, first.path)
    return second


def difference(one: Result, other: Result, metric: str) -> tuple[float, float, float] | None:
    """Difference of a metric and its interval (:func:`bootstrap_difference`); None without the same samples.

    The mean of pseudo-values (:mod:`gapless.geometry.jackknife`) is near the metric only, so that their interval is
    moved to the difference that the two results have.
    """
    first, second = one.samples.get(metric), other.samples.get(metric)
    if first is None or second is None or len(first) != len(second) or one.sample_set != other.sample_set:
        return None
    mean, low, high = bootstrap_difference(first, second, one.groups.get(metric))
    moved = one.metrics[metric] - other.metrics[metric] - mean
    return mean + moved, low + moved, high + moved


def bootstrap_difference(
    one: Tensor, other: Tensor, groups: Tensor | None = None, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Mean difference of two models' scores on the same samples, and its percentile bootstrap interval.

    Args:
        one: (N,).
        other: (N,), of the same samples in the same order.
        groups: int64 (N,), of samples that are no independent ones and are drawn together; None if all are.
        resamples: of the groups, with replacement.
        level: of the interval.
        seed: of the resamples.

    Returns:
        Mean of one - other, lower and upper end; the ends are the mean where there is one group only.
    """
    values = (one - other).double()
    mean = float(values.mean())
    found = _bootstrap(values, groups, resamples, level, seed)
    if found is None:
        return mean, mean, mean
    return mean, float(found.confidence_interval.low), float(found.confidence_interval.high)


def bootstrap_error(values: Tensor, groups: Tensor | None = None, resamples: int = 2000) -> tuple[float, int]:
    """Standard error of the mean of samples (N,), by the bootstrap over their groups (N,); and the number of groups."""
    found = _bootstrap(values.double(), groups, resamples)
    return (0.0 if found is None else float(found.standard_error)), len(group_totals(values, groups)[0])


def _bootstrap(values: Tensor, groups: Tensor | None, resamples: int, level: float = 0.95, seed: int = 0) -> Any:
    """scipy's BootstrapResult of a mean; None for one group, which says nothing about others."""
    totals = group_totals(values, groups)
    if len(totals[0]) < 2:
        return None
    return bootstrap(
        totals,
        _ratio,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=100,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    )


def group_totals(values: Tensor, groups: Tensor | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sum of the values (N,) of each group, and how many there are, both (G,)."""
    rows = torch.arange(len(values)) if groups is None else torch.unique(groups, return_inverse=True)[1]
    return torch.bincount(rows, values.double()).numpy(), torch.bincount(rows).double().numpy()


def _ratio(sums: NDArray[np.float64], counts: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = sums.sum(axis=axis) / counts.sum(axis=axis)
    return mean
