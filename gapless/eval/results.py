"""Results on disk, in clip_benchmark's schema: one strict JSON file for a model, a data set and a task."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gapless.errors import DataError

SAMPLES = "samples"
"""Folder beside the results with what every single sample scored."""


@dataclass
class Result:
    """What a model scored at a task on a data set."""

    dataset: str
    task: str
    """clip_benchmark's name where it has one: zeroshot_classification, zeroshot_retrieval, linear_probe ..."""
    metrics: dict[str, float]
    model: str = ""
    pretrained: str = ""
    language: str = "en"
    num_samples: int = 0
    """Samples that the scores are over."""
    num_bad: int = 0
    """Samples that could not be used."""
    samples: dict[str, Tensor] = field(default_factory=dict)
    """Score of every sample, (N,), by the name of the metric whose mean it is."""

    @property
    def stem(self) -> str:
        """Name of its file, without a suffix."""
        parts = (self.dataset, self.pretrained, self.model, self.language, self.task)
        return "_".join("".join(c if c.isalnum() or c in "-._" else "-" for c in part) for part in parts)


def save_result(result: Result, folder: Path) -> Path:
    """Write a result whole, and what its samples scored beside it; replaces an older one."""
    (folder / SAMPLES).mkdir(parents=True, exist_ok=True)
    tree = {
        "dataset": result.dataset,
        "model": result.model,
        "pretrained": result.pretrained,
        "task": result.task,
        # Strict JSON has no NaN.
        "metrics": {name: value if math.isfinite(value) else None for name, value in result.metrics.items()},
        "language": result.language,
        "num_samples": result.num_samples,
        "num_bad": result.num_bad,
    }
    path = folder / f"{result.stem}.json"
    temporary = path.with_name(f".tmp_{path.name}")
    temporary.write_text(json.dumps(tree, indent=2, allow_nan=False) + "\n")
    temporary.replace(path)
    if result.samples:
        save_file(
            {n: t.float().contiguous() for n, t in result.samples.items()},
            folder / SAMPLES / f"{result.stem}.safetensors",
        )
    return path


def load_results(folder: Path) -> list[Result]:
    """All results of a run (its folder results/) or of a folder.

    Raises:
        DataError: no results, or a file that is none.
    """
    folder = folder / "results" if (folder / "results").is_dir() else folder
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            tree: dict[str, Any] = json.loads(path.read_text())
            metrics = {n: math.nan if v is None else float(v) for n, v in tree["metrics"].items()}
            result = Result(tree["dataset"], tree["task"], metrics, tree["model"], tree["pretrained"], tree["language"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is no result of an evaluation ({type(error).__name__}: {error})") from None
        result.num_samples, result.num_bad = tree.get("num_samples", 0), tree.get("num_bad", 0)
        samples = folder / SAMPLES / f"{path.stem}.safetensors"
        if samples.is_file():
            try:
                result.samples = load_file(samples)
            except SafetensorError as error:
                raise DataError(f"{samples} cannot be read ({error}); evaluate again") from None
        found.append(result)
    if not found:
        raise DataError(f"{folder} has no results; gapless eval writes them")
    return found


def bootstrap_difference(
    one: Tensor, other: Tensor, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Mean difference of two models' scores on the same samples, and its percentile bootstrap interval.

    Args:
        one: (N,).
        other: (N,), of the same samples in the same order.
        resamples: of the N samples, with replacement.
        level: of the interval.
        seed: of the resamples.

    Returns:
        Mean of one - other, lower and upper end.
    """
    difference = (one - other).double()
    generator = torch.Generator().manual_seed(seed)
    # How often each sample is drawn is multinomial: one row of counts is one resample.
    means = torch.stack(
        [
            difference[torch.randint(len(difference), (len(difference),), generator=generator)].mean()
            for _ in range(resamples)
        ]
    )
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(means, ends).tolist()
    return float(difference.mean()), low, high


def comparison(results: Mapping[str, Sequence[Result]]) -> dict[str, dict[str, float]]:
    """``dataset task metric`` to the value of each model, for what every model was scored at.

    Args:
        results: of each model, by the name shown.
    """
    rows: dict[str, dict[str, float]] = {}
    for name, found in results.items():
        for result in found:
            for metric, value in result.metrics.items():
                rows.setdefault(f"{result.dataset} {result.task} {metric}", {})[name] = value
    return {row: values for row, values in rows.items() if len(values) == len(results)}
