"""Many runs, one after the other or one on each GPU: each is trained, scored, and never done twice."""

import json
import logging
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from accelerate import PartialState

from gapless.config import Config, EvalPlan
from gapless.errors import DataError, GaplessError, StoppedError
from gapless.eval.results import Result, load_results
from gapless.eval.run import evaluate, save_all
from gapless.models import load_model
from gapless.train import run_training
from gapless.train.run import run_folder

logger = logging.getLogger(__name__)

EVALUATED = "evaluated.json"
"""File in a run's folder with the plan whose results are complete."""


@dataclass(frozen=True)
class Member:
    """One run of a grid."""

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


def run_members(members: Sequence[Member], jobs: int | None = None) -> dict[str, str]:
    """Train and score what is not finished yet.

    Args:
        members: of the grid, none of which needs another.
        jobs: runs at a time, each on a GPU of its own; None for as many as there are GPUs. Within a launched group of
            processes runs go one after the other, each on all of them.

    Returns:
        What failed, by the member's name, in words.

    Raises:
        StoppedError: a signal came; the same call goes on.
    """
    jobs = jobs or torch.cuda.device_count() or 1
    if jobs > 1 and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return _run_parallel(members, jobs)
    failures: dict[str, str] = {}
    for k, member in enumerate(members):
        logger.info("run %d of %d: %s", k + 1, len(members), member.name)
        failures |= run_member(member)
    return failures


def run_member(member: Member) -> dict[str, str]:
    """Train and score one run; what failed, by ``name`` or ``name on data set``."""
    try:
        folder = run_training(member.config)
        return _score(member, folder) if member.plan else {}
    except StoppedError:
        raise
    except GaplessError as error:
        logger.error("%s failed: %s", member.name, error)
        return {member.name: str(error)}


def _score(member: Member, folder: Path) -> dict[str, str]:
    """Results of every data set of the plan, unless they are there."""
    assert member.plan is not None
    wanted = json.loads(json.dumps(asdict(member.plan), default=str))
    done = folder / EVALUATED
    if done.is_file() and json.loads(done.read_text()) == wanted:
        return {}
    loaded, failures = load_model(str(folder)), {}
    for dataset in member.plan.datasets:
        try:
            save_all(evaluate(loaded, replace(member.plan, datasets=[dataset]), None, folder), folder / "results")
        except DataError as error:
            logger.error("%s on %s failed: %s", member.name, dataset, error)
            failures[f"{member.name} on {dataset}"] = str(error)
    if PartialState().is_main_process and not failures:
        done.write_text(json.dumps(wanted) + "\n")
    return failures


def _run_parallel(members: Sequence[Member], jobs: int) -> dict[str, str]:
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    devices = context.Queue()
    for k in range(jobs):
        devices.put(k % max(1, torch.cuda.device_count()))
    failures: dict[str, str] = {}
    with ProcessPoolExecutor(jobs, context, _take_device, (devices,)) as pool:
        waiting: dict[Future[dict[str, str]], Member] = {pool.submit(run_member, m): m for m in members}
        for k, future in enumerate(as_completed(waiting)):
            logger.info("run %d of %d ended: %s", k + 1, len(members), waiting[future].name)
            failures |= future.result()
    return failures


def _take_device(devices: "multiprocessing.Queue[int]") -> None:
    """Each process of the pool sees one GPU."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    k = devices.get()
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[k] if visible else str(k)


def scores(folder: Path, pairs: str, arithmetic: str) -> dict[str, float]:
    """The numbers of a run's results by short names.

    Args:
        folder: of the run.
        pairs: data set whose gap and retrieval scores keep their names.
        arithmetic: data set whose score is called ``simat``.

    Returns:
        Those; ``<data set>/<metric>`` of zero-shot data sets, and ``zero_shot/<metric>``, their means.

    Raises:
        DataError: the run has no results.
    """
    found: dict[str, float] = {}
    zero_shot: list[Result] = []
    for result in load_results(folder):
        if result.dataset == pairs:
            found |= result.metrics
        elif result.dataset == arithmetic:
            found["simat"] = result.metrics["simat_score@1"]
        elif result.task == "zeroshot_classification":
            zero_shot.append(result)
            found |= {f"{result.dataset}/{name}": value for name, value in result.metrics.items()}
    for name in ("acc1", "centroid_distance", "uniformity_image"):
        values = [r.metrics[name] for r in zero_shot if name in r.metrics]
        if values:
            found[f"zero_shot/{name}"] = sum(values) / len(values)
    return found
