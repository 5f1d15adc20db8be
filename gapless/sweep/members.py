"""The runs of a sweep: those that its record remembers, and those to come."""

import json
import logging
import os
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from gapless.config import Config
from gapless.engine.resume import find_checkpoint, load_progress
from gapless.engine.run import run_folder
from gapless.errors import ConfigError, DataError
from gapless.report import load_run
from gapless.run_folder import CHECKPOINTS, METRICS_FILE, write_text
from gapless.sweep.children import Child
from gapless.sweep.command import command_of, config_of
from gapless.sweep.file import Sweep
from gapless.sweep.parameters import canonical
from gapless.sweep.search import Trial, Values, can_draw, each_value_once, next_parameters

logger = logging.getLogger(__name__)


class Members:
    """The runs of a sweep, those of its record and those to come."""

    def __init__(self, sweep: Sweep, record: Path, count: int | None, allow_missing: bool, seed: int) -> None:
        self.sweep, self.record, self.count, self.seed = sweep, record, count, seed
        self.allow_missing = allow_missing
        self._folders: dict[str, Path] = {}
        self._configs: dict[Path, Config] = {}
        if sweep.method == "grid":  # a slip shows before the first run, not after hours
            for point in each_value_once(sweep):
                self._refusal(point)
        # What the file does not draw now was drawn from another one.
        self.trials = [trial for trial in _load(record) if can_draw(sweep, trial.parameters)]
        for trial in self.trials:
            if trial.state == "finished" and trial.folder == str(self._folder(trial.parameters)):
                self._read_value(trial)
            else:
                trial.state, trial.value = "pending", None
        self._waiting = [trial for trial in self.trials if trial.state != "finished"]  # first, as they were drawn

    @property
    def logs(self) -> Path:
        """Folder for what the runs say, and for their args_json_file."""
        return self.record.with_name(f"{self.record.stem}.logs")

    def start_next(self, quiet: bool) -> tuple[Child | None, Trial] | None:
        """Begin the next run, if there is one; without a child where it needs no training.

        Raises:
            ConfigError: it is refused.
        """
        trial = self._waiting[0] if self._waiting else self._draw()
        if trial is None:
            return None
        refusal = self._refusal(trial.parameters)
        if not refusal and self._is_running(trial):
            return None
        if self._waiting:
            self._waiting.pop(0)
        else:
            self.trials.append(trial)
        if refusal:
            trial.state = "failed"
            self.save()
            return None, trial
        return self._start(trial, quiet), trial

    def _is_running(self, trial: Trial) -> bool:
        """Whether a run of the same configuration has the folder now: this one waits for it."""
        folder = str(self._folder(trial.parameters))
        return any(other.state == "running" and other.folder == folder for other in self.trials)

    def _draw(self) -> Trial | None:
        if (self.count is not None and len(self.trials) >= self.count) or self._has_reached_target():
            return None
        parameters = next_parameters(self.sweep, self.trials, self.seed)
        return None if parameters is None else Trial(parameters)

    def _has_reached_target(self) -> bool:
        metric = self.sweep.metric
        if metric is None or metric.target is None:
            return False
        values = [trial.value for trial in self.trials if trial.state == "finished" and trial.value is not None]
        return any(metric.sign * (value - metric.target) >= 0 for value in values)

    def _refusal(self, parameters: Values) -> str:
        """What is wrong with a run; an error, unless failed runs are allowed."""
        try:
            self._folder(parameters)
        except ConfigError as error:
            if not self.allow_missing:
                raise
            logger.error("%s", error)
            return str(error)
        return ""

    def _folder(self, parameters: Values) -> Path:
        """The folder of a run whose command ``gapless train`` takes.

        Raises:
            ConfigError: it does not, or another run has the folder.
        """
        key = canonical(parameters)
        if key not in self._folders:
            with TemporaryDirectory() as temporary:
                file = Path(temporary) / "args.json"
                file.write_text(json.dumps(parameters))
                command = command_of(self.sweep, parameters, file)
                try:
                    config = config_of(command)
                except ConfigError as error:
                    raise ConfigError(f"{error} (of the run with {parameters})") from None
            folder = run_folder(config)
            if self._configs.setdefault(folder, config) != config:
                raise ConfigError(f"name: two runs would share {folder}; put {{hash}} into the name in the command")
            self._folders[key] = folder
        return self._folders[key]

    def _start(self, trial: Trial, quiet: bool) -> Child | None:
        folder = self._folder(trial.parameters)
        trial.folder, trial.state = str(folder), "running"
        checkpoint = find_checkpoint(folder / CHECKPOINTS)
        if checkpoint and load_progress(checkpoint).finished:
            self.end(trial, 0)
            return None
        self.save()
        arguments = (self.logs / f"{folder.name}.json").absolute()
        command = command_of(self.sweep, trial.parameters, arguments)
        if str(arguments) in command:
            write_text(arguments, json.dumps(trial.parameters))
        logger.info("%s", " ".join(command))
        environment = {"WANDB_MODE": os.environ.get("WANDB_MODE", "offline")}
        if self.sweep.entity:
            environment["WANDB_ENTITY"] = self.sweep.entity
        try:
            return Child(command, self.logs / f"{folder.name}.log" if quiet else None, environment)
        except OSError as error:
            self._forget(trial)
            raise ConfigError(f"command: {command[0]} cannot be started ({error.strerror})") from None

    def end(self, trial: Trial, code: int) -> None:
        """Note how a run ended.

        Raises:
            ConfigError: it was refused, or it has not logged the metric.
        """
        if code == ConfigError.exit_code and not self.allow_missing:
            self._forget(trial)
            raise ConfigError(f"{trial.folder} was refused, as its own last line says{self._last_words(trial)}")
        trial.state = "failed" if code else "finished"
        logger.info("%s: %s", trial.state, trial.folder)
        missing = "" if code else self._read_value(trial)
        self.save()
        if missing:
            raise ConfigError(missing)

    def _last_words(self, trial: Trial) -> str:
        log = self.logs / f"{Path(trial.folder).name}.log"
        lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
        return next((f": {line.strip()}" for line in reversed(lines) if line.startswith("gapless: error")), "")

    def _read_value(self, trial: Trial) -> str:
        """Take the metric from the run, as it may be another than in the record; what is wrong, if it has none."""
        metric, folder = self.sweep.metric, Path(trial.folder)
        if metric is None or not (folder / METRICS_FILE).is_file():
            return ""
        run = load_run(folder)
        curve = run.curve(metric.name)
        trial.value = curve[-1][1] if curve else None
        logged = metric.name in run.metrics
        return "" if logged else f"metric.name: {metric.name} is not logged; {folder} has {', '.join(run.metrics)}"

    def _forget(self, trial: Trial) -> None:
        """Leave no trace of a run that was refused."""
        self.trials.remove(trial)
        self.save()

    def save(self) -> None:
        """Write the record whole; remove it if there is nothing to remember."""
        if self.trials:
            write_text(self.record, json.dumps([asdict(trial) for trial in self.trials], indent=2) + "\n")
        else:
            self.record.unlink(missing_ok=True)


def _load(record: Path) -> list[Trial]:
    if not record.exists():
        return []
    try:
        trials = [Trial(**each) for each in json.loads(record.read_text(encoding="utf-8"))]
        if all(isinstance(t.parameters, dict) and isinstance(t.folder, str) for t in trials):
            return trials
        error: Exception | str = "a run without parameters"
    except (OSError, ValueError, TypeError, RecursionError) as problem:
        error = problem
    raise DataError(f"{record} is no record of a sweep ({error}); delete it to begin anew")
