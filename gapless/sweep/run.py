"""Run what a sweep file asks for; begun again, it goes on where it was."""

import signal
import time
from pathlib import Path

from gapless.errors import ConfigError, DataError, StoppedError
from gapless.measures import Direction
from gapless.report import Cell, Column, Table, best_row
from gapless.signals import StopFlag
from gapless.sweep.children import Child
from gapless.sweep.file import load_sweep
from gapless.sweep.members import Members
from gapless.sweep.search import Trial, value_of

BETTER: dict[str, Direction] = {"minimize": "low", "maximize": "high"}
POLL_SECONDS = 0.2


def run_sweep(
    path: Path,
    jobs: int = 1,
    count: int | None = None,
    record: Path | None = None,
    allow_missing: bool = False,
    seed: int = 0,
) -> Table:
    """Run what a sweep file asks for.

    Args:
        path: the sweep file; its command must run ``gapless train``.
        jobs: runs at a time, at least 1.
        count: of all runs, at least 1; None for the file's run_cap, and for the whole of a grid.
        record: file that remembers the runs; beside the runs, named as the sweep file.
        allow_missing: whether failed runs are no error.
        seed: of random and bayes.

    Returns:
        Parameters and metric of every run.

    Raises:
        ConfigError: a file that wandb would refuse, a run that gapless train refuses, a metric that is not logged, or a
            search without an end.
        DataError: runs failed (after all others are done), unless allowed.
        StoppedError: a signal stopped the runs, which have saved.
    """
    for key, number, least in (("jobs", jobs, 1), ("count", count, 1), ("seed", seed, 0)):
        if number is not None and number < least:
            raise ConfigError(f"{key}: {number} does not work, it must be at least {least}")
    sweep = load_sweep(path)
    count = count or sweep.run_cap
    if sweep.method != "grid" and count is None:
        raise ConfigError(f"count: missing, or run_cap in {path}: method {sweep.method} searches without an end")
    members = Members(sweep, record or Path("runs") / f"{path.stem}.sweep.json", count, allow_missing, seed)
    with StopFlag() as stop:
        _run_all(members, jobs, stop)
    table = _table(members)
    failed = [trial for trial in members.trials if trial.state != "finished"]
    if failed and not allow_missing:
        raise DataError(
            f"{len(failed)} of {len(members.trials)} runs failed, first {failed[0].folder or failed[0].parameters}; "
            "the same command tries them again (allow_missing takes the rest)"
        )
    return table


def _run_all(members: Members, jobs: int, stop: StopFlag) -> None:
    """Train one run after another, so many at a time; after a signal or a refusal, wait for those that run."""
    running: dict[Child, Trial] = {}
    refused: ConfigError | None = None
    try:
        while True:
            try:
                while len(running) < jobs and not stop.is_set and refused is None:
                    begun = members.start_next(jobs > 1)
                    if begun is None:
                        break
                    if begun[0]:
                        running[begun[0]] = begun[1]
            except ConfigError as error:
                refused = error
            if not running:
                break
            time.sleep(POLL_SECONDS)
            try:
                _look_after(members, running, stop)
            except ConfigError as error:
                refused = error
    finally:
        for child in running:  # only after an error of another kind
            child.kill()
    if refused:
        raise refused
    if stop.is_set:
        raise StoppedError("the sweep was stopped, its runs have saved; the same command goes on")


def _look_after(members: Members, running: dict[Child, Trial], stop: StopFlag) -> None:
    """Note which runs have ended, and pass a signal on; a run that was stopped by itself stops all."""
    for child, trial in list(running.items()):
        if stop.is_set:
            child.stop()
        code = child.exit_code()
        if code is None:
            continue
        del running[child]
        if code in (StoppedError.exit_code, -signal.SIGINT, -signal.SIGTERM) or (stop.is_set and code):
            stop.is_set = True
        else:
            members.end(trial, code)


def _table(members: Members) -> Table:
    """Parameters that vary, and the metric; the best run is marked."""
    sweep = members.sweep
    varied = [parameter for parameter in sweep.parameters if parameter.distribution != "constant"]
    metric = sweep.metric.name if sweep.metric else "state"
    column = Column("value", metric, BETTER[sweep.metric.goal] if sweep.metric else "")
    best = best_row({str(k): {"value": t.value} for k, t in enumerate(members.trials) if t.value is not None}, column)
    rows = []
    for k, trial in enumerate(members.trials):
        value = trial.state if trial.value is None else f"{trial.value:.4f}"
        values = (value_of(parameter, trial.parameters) for parameter in varied)
        cells = (Cell(f"{v:.4g}" if isinstance(v, float) else str(v)) for v in values)
        rows.append([Cell(Path(trial.folder).name), *cells, Cell(value, str(k) == best)])
    return Table(f"Sweep {sweep.title}", ["run", *(parameter.name for parameter in varied), metric], rows)
