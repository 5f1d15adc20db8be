"""What a run left behind, as reports read it."""

import json
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gapless.config import flatten
from gapless.errors import DataError
from gapless.geometry.files import kept_epochs

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
Row = dict[str, Any]


@dataclass
class RunRecord:
    """A run's configuration, its metrics, and the embeddings that it kept."""

    name: str
    folder: Path
    config: Row
    """By flat keys; empty if the run has none."""
    rows: list[Row]
    """Lines of metrics.jsonl."""
    embeddings: dict[int, Path] = field(default_factory=dict)
    """Files by epoch."""
    notes: list[str] = field(default_factory=list)
    """What readers should know: a half-written last line, for example."""

    @property
    def metrics(self) -> list[str]:
        """Names of everything logged, in order of appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row if "/" in name))

    def curve(self, metric: str) -> list[tuple[float, float]]:
        """(epoch, value) wherever the metric was logged."""
        return [(float(r["epoch"]), float(r[metric])) for r in self.rows if r.get(metric) is not None]

    @property
    def data(self) -> str:
        """What the run was evaluated on, so that runs of different data are not mixed."""
        keys = ["data.source", "data.path", "data.val_path", "data.val_captions", "eval.split"]
        subset = ["data.train_samples", "seed"] if self.config.get("eval.split") == "train" else ["data.val_samples"]
        settings = {key: self.config.get(key) for key in keys + subset}
        if settings.get("data.train_samples", 0) is None:
            settings["seed"] = None  # a seed chooses a subset only
        named = {"data.train_samples": "{} pairs", "data.val_samples": "{} pairs", "seed": "seed {}"}
        return ", ".join(named.get(key, "{}").format(value) for key, value in settings.items() if value is not None)


def load_run(folder: Path) -> RunRecord:
    """Read a run's folder.

    Raises:
        DataError: there is no such folder, no metrics.jsonl, or a line in the middle of it that is broken.
    """
    path = folder / METRICS
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except OSError as error:
        raise DataError(f"{folder} is no run: {path.name} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason} at byte {error.start})") from None
    rows, notes = [], []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            if number < len(lines):
                raise DataError(f"{path}, line {number}: {_short(error)}") from None
            if lines == [""]:
                break
            notes.append(f"the last line of {path.name} is half-written and left out")
            logger.warning("%s: %s", folder, notes[-1])
    for number, row in enumerate(rows, 1):
        if problem := _problem(row):
            raise DataError(f"{path}, line {number}: {problem}")
    if not rows:
        raise DataError(f"{path} has no metrics yet; the first are written before the first step")
    return RunRecord(folder.resolve().name, folder, _config(folder), rows, kept_epochs(folder), notes)


def _problem(row: Any) -> str | None:
    """What is wrong with a line: it is an object with an epoch, and its metrics are numbers or null."""
    if not isinstance(row, dict) or not _is_number(row.get("epoch")):
        return "not an object with an epoch that is a number"
    for name, value in row.items():
        if "/" in name and value is not None and not _is_number(value):
            return f"{name} is {_short(repr(value))}, not a number"
    return None


def _is_number(value: Any) -> bool:
    """A finite number that a float can hold."""
    try:
        return not isinstance(value, bool) and math.isfinite(value)
    except (TypeError, OverflowError):
        return False


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) < 80 else f"{text[:77]}..."


def _config(folder: Path) -> Row:
    try:
        return flatten(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, AttributeError, TypeError, ValueError, RecursionError):
        return {}


def differences(runs: list[RunRecord]) -> dict[str, list[Any]]:
    """Keys of the configurations whose values are not the same in all runs, with the values; names aside."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    values = {key: [run.config.get(key) for run in runs] for key in keys if key not in ("name", "output")}
    return {key: each for key, each in values.items() if any(value != each[0] for value in each)}
