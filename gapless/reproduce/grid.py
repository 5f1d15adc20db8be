"""Many runs, one after the other or one on each GPU: each is trained, scored, and never done twice."""

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from accelerate import PartialState

from gapless.config import Config, EvalPlan
from gapless.engine.run import run_folder
from gapless.errors import DataError, GaplessError, StoppedError
from gapless.eval.results import Result, digest_of, load_result, save_result
from gapless.eval.run import evaluate
from gapless.models import load_model
from gapless.run_folder import EVALUATED_FILE, RESULTS, write_text
from gapless.train import run_training

logger = logging.getLogger(__name__)


class Runnable(Protocol):
    """A run of an experiment, with what is scored of it."""

    @property
    def name(self) -> str:
        """What logs and failures call it."""

    @property
    def folder(self) -> Path:
        """Where it lies."""

    def run(self) -> dict[str, str]:
        """Do what is not finished; what failed although the run did not, in words.

        Raises:
            GaplessError: it failed, or a signal stopped it.
        """


@dataclass(frozen=True)
class Member:
    """A training run of CLIP, scored at a plan."""

    config: Config
    plan: EvalPlan | None = None
    """What its model is scored at; None for nothing beside the run's own evaluation."""
    labels: dict[str, str | int] = field(default_factory=dict)
    """Where it belongs: objective, dimension, seed."""

    @property
    def name(self) -> str:
        """Of its run."""
        return self.config.name

    @property
    def folder(self) -> Path:
        """Of its run."""
        return run_folder(self.config)

    def run(self) -> dict[str, str]:
        """Train and score; the data sets that failed, by ``name on data set``."""
        folder = run_training(self.config)
        return _score(self, folder) if self.plan else {}


def run_members(members: Sequence[Runnable], jobs: int | None = None, strict: bool = False) -> dict[str, str]:
    """Do what is not finished yet.

    Args:
        members: none of which needs another, unless they are strict.
        jobs: runs at a time, each on a GPU of its own; None for as many as there are GPUs. Within a launched group of
            processes runs go one after the other, each on all of them.
        strict: whether one that fails ends all; they run one after the other, so that each may need those before it.

    Returns:
        What failed, by the member's name, in words.

    Raises:
        StoppedError: a signal came; the same call goes on.
        GaplessError: of the first strict one that failed.
    """
    jobs = 1 if strict else jobs or torch.cuda.device_count() or 1
    if jobs > 1 and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return _run_parallel(members, jobs)
    failures: dict[str, str] = {}
    for k, member in enumerate(members):
        logger.info("run %d of %d: %s", k + 1, len(members), member.name)
        failures |= member.run() if strict else run_member(member)
    return failures


def run_member(member: Runnable) -> dict[str, str]:
    """Do one run; what failed, by ``name`` or ``name on data set``."""
    try:
        return member.run()
    except StoppedError:
        raise
    except GaplessError as error:
        logger.error("%s failed: %s", member.name, error)
        return {member.name: str(error)}


def _score(member: Member, folder: Path) -> dict[str, str]:
    """Results of every data set of the plan, unless they are there."""
    assert member.plan is not None
    plan = json.loads(json.dumps(asdict(member.plan), default=str))
    record = _record(folder)
    if record.get("plan") == plan and record["complete"] and len(vouched(folder)) == len(record["results"]):
        return {}
    loaded, failures = load_model(str(folder)), {}
    kept: dict[str, str] = {}

    def keep(result: Result) -> None:
        if PartialState().is_main_process:
            path = save_result(result, folder / RESULTS)
            kept[path.name] = _numbers(load_result(path))

    for dataset in member.plan.datasets:
        try:
            evaluate(loaded, replace(member.plan, datasets=[dataset]), None, folder, keep)
        except DataError as error:
            logger.error("%s on %s failed: %s", member.name, dataset, error)
            failures[f"{member.name} on {dataset}"] = str(error)
    if PartialState().is_main_process:
        tree = {"format": 1, "plan": plan, "complete": not failures, "results": kept}
        write_text(folder / EVALUATED_FILE, json.dumps(tree) + "\n")
    return failures


def _record(folder: Path) -> dict[str, Any]:
    """evaluated.json; nothing if it is not there, or older and without the numbers that it vouches for."""
    try:
        tree: dict[str, Any] = json.loads((folder / EVALUATED_FILE).read_text(encoding="utf-8"))
        return tree if {"format", "plan", "complete", "results"} <= set(tree) else {}
    except (OSError, ValueError, TypeError):
        return {}


def _numbers(result: Result) -> str:
    """What is vouched for."""
    return digest_of(result.label, result.num_samples, sorted(result.metrics.items()))


def vouched(folder: Path) -> list[Result]:
    """The results of a run that its plan came to, without those that a later evaluation replaced."""
    results = []
    for name, numbers in _record(folder).get("results", {}).items():
        path = folder / RESULTS / name
        if path.is_file() and _numbers(result := load_result(path)) == numbers:
            results.append(result)
    return results


def _run_parallel(members: Sequence[Runnable], jobs: int) -> dict[str, str]:
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    places = context.Queue()
    for k in range(jobs):
        places.put(k)
    logs = members[0].folder.parent
    logs.mkdir(parents=True, exist_ok=True)
    failures: dict[str, str] = {}
    with ProcessPoolExecutor(jobs, context, _take_place, (places, jobs, logs)) as pool, _passing_sigterm_on():
        waiting = {pool.submit(_run_next, member): member for member in members}
        try:
            for k, future in enumerate(as_completed(waiting)):
                failures |= future.result()
                logger.info("run %d of %d ended: %s", k + 1, len(members), waiting[future].name)
        except (StoppedError, BrokenProcessPool):
            pool.shutdown(wait=True, cancel_futures=True)
            raise StoppedError("stopped by a signal; the same command goes on") from None
    return failures


_stopped = threading.Event()
"""Set in a process of the pool that a signal has stopped."""


def _run_next(member: Runnable) -> dict[str, str]:
    """In a process of the pool: :func:`run_member`, but nothing after a signal, although the pool has handed it out."""
    if _stopped.is_set():
        raise StoppedError("stopped by a signal")
    try:
        return run_member(member)
    except StoppedError:
        _stopped.set()
        raise


def _take_place(places: "multiprocessing.Queue[int]", jobs: int, logs: Path) -> None:
    """Each process of the pool sees one GPU, or has its share of the cores, and a log of its own."""
    k = places.get()
    with (logs / f"job-{k}.log").open("a") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    logging.getLogger("gapless").setLevel(logging.INFO)
    count = torch.cuda.device_count()
    if count:
        visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[k % count] if visible else str(k % count)
    else:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))


@contextlib.contextmanager
def _passing_sigterm_on() -> Iterator[None]:
    """Within it a SIGTERM reaches the processes of the pool, which save and stop."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in multiprocessing.active_children():
            process.terminate()

    previous = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
