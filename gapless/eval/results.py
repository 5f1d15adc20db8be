"""Results on disk, in clip_benchmark's schema: one strict JSON file for an evaluation.

An evaluation is a model, a data set, a task and every setting that changes the numbers. Two that differ in any of them
are two files, and the same one again replaces its file, however paths were spelled.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gapless.errors import DataError
from gapless.run_folder import CHECKPOINTS, EXPORT, RESULTS, STATE_FILE, write_text, write_whole

SAMPLES = "samples"
"""Folder beside the results with what every single sample scored."""
GROUPS = "groups/"
"""Before a metric's name, in that folder: which of its samples belong together."""
FORMAT = 1
"""Of the files; those without a number know neither settings nor where data and weights lie."""
LONGEST_STEM = 200
"""Bytes of a file's name; file systems take 255."""
RECORDED = ("num_samples", "num_bad", "split", "settings", "data", "sample_set", "weights", "variant")
"""Beside clip_benchmark's keys."""


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
    """Score of every sample, (N,), by the name of the metric whose mean it is; of the gap, pseudo-values."""
    groups: dict[str, Tensor] = field(default_factory=dict)
    """Groups of samples that are not independent, int64 (N,), by metric; none where every sample is."""
    split: str = ""
    """Of the data set; empty where it has none, or in older results."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Whatever changes these numbers and is not its default, as JSON has it; the split among them."""
    data: str = ""
    """Where the data lie; empty for embedded data."""
    sample_set: str = ""
    """Hash of the samples' names, captions and classes; equal for equal sets, wherever they lie."""
    weights: str = ""
    """Absolute path of the model; empty for models of open_clip."""
    variant: str = ""
    """What of that model was scored: a checkpoint, or how far it lies from another model; empty for itself."""
    path: Path | None = None
    """The file that it was read from."""
    format: int = FORMAT
    """Of that file."""

    @property
    def stem(self) -> str:
        """Name of its file, without a suffix: the settings follow where they are not the defaults."""
        parts = [self.dataset, self.pretrained, self.model, self.language, self.task]
        parts += [f"{key}-{_worded(value, ',')}" for key, value in sorted(self.settings.items())]
        stem = "_".join("".join(c if c.isalnum() or c in "-._" else "-" for c in part) for part in parts)
        whole = stem.encode()
        return stem if len(whole) <= LONGEST_STEM else f"{whole[:180].decode(errors='ignore')}_{_hash(stem)}"

    @property
    def label(self) -> str:
        """Data set, task and the settings that are not the defaults, to be read."""
        settings = ", ".join(f"{key} {_worded(value)}" for key, value in sorted(self.settings.items()))
        return f"{self.dataset} {self.task}" + (f" ({settings})" if settings else "")


def save_result(result: Result, folder: Path) -> Path:
    """Write a result whole, and what its samples scored beside it; the same evaluation before it is replaced.

    Raises:
        DataError: it cannot be written.
    """
    path = _place(result, folder)
    tree = {
        "dataset": result.dataset,
        "model": result.model,
        "pretrained": result.pretrained,
        "task": result.task,
        # Strict JSON has no NaN.
        "metrics": {name: value if math.isfinite(value) else None for name, value in result.metrics.items()},
        "language": result.language,
        **{name: getattr(result, name) for name in RECORDED},
        "weights": _relative(result.weights, folder),
        "format": FORMAT,
    }
    samples = folder / SAMPLES / f"{path.stem}.safetensors"
    samples.unlink(missing_ok=True)  # first, so that older ones never lie beside new scores
    write_text(path, json.dumps(tree, indent=2, allow_nan=False) + "\n")
    if result.samples:
        with write_whole(samples) as temporary:
            groups = {f"{GROUPS}{name}": rows.clone() for name, rows in result.groups.items()}  # shared by metrics
            save_file({n: t.float().contiguous() for n, t in result.samples.items()} | groups, temporary)
    return path


def _place(result: Result, folder: Path) -> Path:
    """The file of the same evaluation where there is one, else a name of its own."""
    identity, path = _identity(result, folder), folder / f"{result.stem}.json"
    taken = False
    for other in _files(folder):
        there = _try_read(other)
        if there is not None and (_identity(there, folder) == identity or _replaces(result, there)):
            return other
        taken |= other == path and there is not None and there.format > 0
    # Of another data set or model that is named alike.
    return path.with_name(f"{path.stem}_{_hash(identity)}.json") if taken else path


def _identity(result: Result, folder: Path) -> str:
    weights = _relative(result.weights, folder) or f"{result.model} {result.pretrained}"
    evaluation = (result.dataset, result.task, result.language, result.settings, result.data, weights, result.variant)
    return json.dumps([*evaluation, result.format], sort_keys=True)


def _replaces(result: Result, older: Result) -> bool:
    """Whether an older file, which knows no settings, is of the same model and task: the rule it was written by."""
    same = (older.dataset, older.task, older.model) == (result.dataset, result.task, result.model)
    place = older.weights or os.path.realpath(older.pretrained)
    leads = older.pretrained == result.pretrained or place == result.weights
    return older.format == 0 and same and not result.settings and leads


def _relative(weights: str, folder: Path) -> str:
    """From the folder of results, so that a run may be moved."""
    return Path(os.path.relpath(weights, os.path.realpath(folder))).as_posix() if weights else ""


def load_results(folder: Path) -> list[Result]:
    """All results of a run or an export (its folder results/), of a checkpoint, or of a folder.

    Raises:
        DataError: no results, or a file that is none.
    """
    place, checkpoint = results_folder(folder)
    results = [load_result(path) for path in _files(place if place.is_dir() else folder)]
    results = [result for result in results if not checkpoint or result.variant == checkpoint]
    if checkpoint and not results and (folder / RESULTS).is_dir():  # where they were before results had a format
        results = [load_result(path) for path in _files(folder / RESULTS)]
    if not results:
        raise DataError(f"{folder} has no results; gapless eval writes them")
    return results


def results_folder(folder: Path) -> tuple[Path, str]:
    """Where results of a run, an export or a checkpoint lie, and the name of the checkpoint, or nothing.

    Those of a checkpoint lie in its run, since checkpoints are removed while the run goes on.
    """
    whole = Path(os.path.realpath(folder))
    if whole.parent.name != CHECKPOINTS or not (whole / STATE_FILE).is_file():
        return folder / RESULTS, ""
    # As it was spelled where that leads to the run; best and latest are links within checkpoints/.
    run = folder.parent.parent if folder.parent.name == CHECKPOINTS else whole.parent.parent
    return run / RESULTS, whole.name


def load_result(path: Path) -> Result:
    """Read a result, and what its samples scored.

    Raises:
        DataError: it is none, or one of a later format.
    """
    result = _read(path)
    samples = path.parent / SAMPLES / f"{path.stem}.safetensors"
    if samples.is_file():
        try:
            tensors = load_file(samples)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{samples} cannot be read ({error}); evaluate again") from None
        result.samples = {name: rows for name, rows in tensors.items() if not name.startswith(GROUPS)}
        result.groups = {n.removeprefix(GROUPS): rows for n, rows in tensors.items() if n.startswith(GROUPS)}
    return result


def _read(path: Path) -> Result:
    try:
        tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        number = int(tree.get("format", 0))
        metrics = {n: math.nan if v is None else float(v) for n, v in tree["metrics"].items()}
        result = Result(tree["dataset"], tree["task"], metrics, tree["model"], tree["pretrained"], tree["language"])
        for name in RECORDED:
            setattr(result, name, type(getattr(result, name))(tree.get(name, getattr(result, name))))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no result of an evaluation ({type(error).__name__}: {error})") from None
    if number > FORMAT:
        raise DataError(f"{path} is of format {number}, this gapless reads results up to {FORMAT}: update gapless")
    result.path, result.format = path, number
    if result.weights:
        result.weights = os.path.realpath(path.parent / result.weights)
    if number == 0:
        _apply_old_rule(result, path)
    return result


def _apply_old_rule(result: Result, path: Path) -> None:
    """What older files do not say: a run's results are of its export, and an @ begins how far a model lies between."""
    name, _, result.variant = result.model.partition("@")
    run = path.resolve().parents[1]
    if path.resolve().parent.name == RESULTS and name == run.name:
        result.weights = str(run / EXPORT if (run / EXPORT).is_dir() else run)


def _try_read(path: Path) -> Result | None:
    try:
        return _read(path)
    except DataError:
        return None  # of another program, or broken


def _files(folder: Path) -> Iterator[Path]:
    """What may be results, without what a killed process left half-written."""
    return (path for path in sorted(folder.glob("*.json")) if not path.name.startswith("."))


def file_hash(path: Path) -> str:
    """Of a file's bytes, short enough for names.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return _hash(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None


def digest_of(*parts: Any) -> str:
    """A hash of what a set of samples is made of, as JSON has it."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()


def _hash(text: str | bytes) -> str:
    return hashlib.blake2b(text.encode() if isinstance(text, str) else text, digest_size=4).hexdigest()


def _worded(value: Any, separator: str = ", ") -> str:
    if isinstance(value, Mapping):
        return separator.join(f"{k} {_worded(v)}" for k, v in value.items())
    if isinstance(value, list):
        return separator.join(map(_worded, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
