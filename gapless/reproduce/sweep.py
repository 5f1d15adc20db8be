"""wandb's sweep files without a server: the same file, the same commands, the same searches, on this machine."""

import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from gapless.config import Config
from gapless.errors import ConfigError, DataError, StoppedError
from gapless.parsing import parse_arguments
from gapless.report import Cell, Column, Table, best_row, load_run
from gapless.train.resume import find_checkpoint, load_progress
from gapless.train.runs import run_folder

logger = logging.getLogger(__name__)

COMMAND = ["${env}", "accelerate", "launch", "-m", "${program}", "train", "${args}"]
"""Where the file has none."""
BETTER = {"minimize": "low", "maximize": "high"}


@dataclass
class Trial:
    """One run of a sweep."""

    parameters: dict[str, Any]
    state: str = "pending"
    """pending, finished or failed."""
    folder: str = ""
    value: float | None = None
    """The sweep's metric at the end."""


def load_sweep(path: Path) -> dict[str, Any]:
    """A sweep file that wandb would accept.

    Raises:
        ConfigError: what wandb's own schema says against it.
    """
    try:
        tree = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read ({' '.join(str(error).split())})") from None
    violations = _sweeps().config.schema_violations_from_proposed_config(tree)
    if violations:
        raise ConfigError(f"{path} is no sweep of wandb: {violations[0]}")
    filled: dict[str, Any] = _sweeps().config.schema.fill_validate_schema(tree)
    return filled


def _sweeps() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its pydantic models are of an older style
        import sweeps
        import sweeps.config.schema
    return sweeps


def run_sweep(
    path: Path, jobs: int = 1, count: int | None = None, record: Path | None = None, allow_missing: bool = False
) -> Table:
    """Run what a sweep file asks for; begun again, it goes on where it was.

    Args:
        path: the sweep file; its command must run ``gapless train``.
        jobs: runs at a time.
        count: of all runs; None for the file's run_cap, and for the whole of a grid.
        record: file that remembers the runs; beside the runs, named as the sweep file.
        allow_missing: whether failed runs are no error.

    Returns:
        Parameters and metric of every run.

    Raises:
        ConfigError: a file that wandb would refuse, or a search without an end.
        DataError: runs failed (after all others are done), unless allowed.
        StoppedError: a run was stopped by a signal.
    """
    sweep = load_sweep(path)
    count = count or sweep.get("run_cap")
    if sweep["method"] != "grid" and count is None:
        raise ConfigError(f"--count: {path} searches without an end ({sweep['method']}), say after how many runs")
    record = record or Path("runs") / f"{path.stem}.sweep.json"
    trials = _load(record)
    again = [trial for trial in trials if trial.state != "finished"]  # those first, as they were drawn
    running: dict[Future[Trial], Trial] = {}
    with ThreadPoolExecutor(jobs) as pool:
        while True:
            while len(running) < jobs:
                trial = again.pop(0) if again else _next(sweep, trials, count)
                if trial is None:
                    break
                if trial not in trials:
                    trials.append(trial)
                trial.state = "running"
                _save(trials, record)
                running[pool.submit(_run, sweep, trial, jobs > 1)] = trial
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                trial = running.pop(future)
                future.result()
                logger.info("%s: %s", trial.state, trial.folder)
                _save(trials, record)
    table = _table(sweep, trials, path)
    failed = [trial for trial in trials if trial.state != "finished"]
    if failed and not allow_missing:
        raise DataError(
            f"{len(failed)} of {len(trials)} runs failed, first {failed[0].folder or failed[0].parameters}; "
            "the same command tries them again (--allow-missing takes the rest)"
        )
    return table


def _next(sweep: dict[str, Any], trials: Sequence[Trial], count: int | None) -> Trial | None:
    """The parameters that wandb's search proposes after what is known."""
    if count is not None and len(trials) >= count:
        return None
    library, metric = _sweeps(), sweep.get("metric", {}).get("name", "")
    known = [
        library.SweepRun(
            name=str(k),
            state=trial.state,
            config={name: {"value": value} for name, value in trial.parameters.items()},
            summary_metrics={} if trial.value is None else {metric: trial.value},
        )
        for k, trial in enumerate(trials)
    ]
    found = library.next_run(sweep, known)
    return None if found is None else Trial({name: each["value"] for name, each in found.config.items()})


def command_of(sweep: dict[str, Any], parameters: dict[str, Any]) -> list[str]:
    """The command line of a run, as wandb's agent would fill it in.

    Raises:
        ConfigError: a macro that is not one of env, interpreter, program, args.
    """
    filled = {
        "${env}": ["/usr/bin/env"],
        "${interpreter}": [sys.executable],
        "${program}": [str(sweep.get("program", "gapless"))],
        "${args}": [f"--{name}={value}" for name, value in parameters.items()],
    }
    words: list[str] = []
    for word in sweep.get("command", COMMAND):
        if word.startswith("${") and word not in filled:
            raise ConfigError(f"command: {word} is not one of {', '.join(filled)}")
        words += filled.get(word, [word])
    return words


def config_of(command: Sequence[str]) -> Config:
    """The configuration of the run that a command trains.

    Raises:
        ConfigError: it does not run ``gapless train``, or with arguments that do not work.
    """
    if "train" not in command:
        raise ConfigError(f"command: {' '.join(command)} does not run gapless train")
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--resume", type=str, default="latest")
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(Config, None)
    values = vars(parse_arguments(parser, list(command)[list(command).index("train") + 1 :]))
    return Config(**{k: v for k, v in values.items() if k not in ("config", "fresh", "resume")})


def _run(sweep: dict[str, Any], trial: Trial, quiet: bool) -> Trial:
    """Train one run unless it is finished; with ``quiet`` its output goes to a file beside it."""
    command = command_of(sweep, trial.parameters)
    folder = run_folder(config_of(command))
    trial.folder = str(folder)
    checkpoint = find_checkpoint(folder / "checkpoints")
    if not (checkpoint and load_progress(checkpoint).finished):
        logger.info("%s", " ".join(command))
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.with_suffix(".log") if quiet else Path(os.devnull)).open("w") as log:
            target = log if quiet else None
            environment = {"WANDB_MODE": "offline"} | os.environ
            code = subprocess.run(command, stdout=target, stderr=target, env=environment, check=False).returncode
        if code in (75, -2, -15):
            raise StoppedError(f"{folder} was stopped; the same command goes on")
        if code:
            trial.state = "failed"
            return trial
    trial.state = "finished"
    metric = sweep.get("metric", {}).get("name")
    if metric:
        curve = load_run(folder).curve(metric)
        trial.value = curve[-1][1] if curve else None
    return trial


def _table(sweep: dict[str, Any], trials: Sequence[Trial], path: Path) -> Table:
    """Parameters that vary, and the metric; the best run is marked."""
    varied = [n for n, p in sweep["parameters"].items() if "value" not in p]
    metric = sweep.get("metric", {})
    column = Column("value", metric.get("name", ""), BETTER.get(metric.get("goal", "minimize"), ""))
    best = best_row({str(k): {"value": t.value} for k, t in enumerate(trials) if t.value is not None}, column)
    rows = []
    for k, trial in enumerate(trials):
        told = trial.state if trial.value is None else f"{trial.value:.4f}"
        parameters = (Cell(f"{v:.4g}" if isinstance(v, float) else str(v)) for v in map(trial.parameters.get, varied))
        rows.append([Cell(Path(trial.folder).name), *parameters, Cell(told, str(k) == best)])
    return Table(f"Sweep {path.stem}", ["run", *varied, metric.get("name", "state")], rows)


def _load(record: Path) -> list[Trial]:
    if not record.is_file():
        return []
    try:
        return [Trial(**each) for each in json.loads(record.read_text())]
    except (ValueError, TypeError) as error:
        raise DataError(f"{record} is no record of a sweep ({error}); delete it to begin anew") from None


def _save(trials: Sequence[Trial], record: Path) -> None:
    record.parent.mkdir(parents=True, exist_ok=True)
    temporary = record.with_name(f".tmp_{record.name}")
    temporary.write_text(json.dumps([asdict(trial) for trial in trials], indent=2) + "\n")
    temporary.replace(record)
