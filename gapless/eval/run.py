"""From the names of data sets to results: what ``gapless eval`` does."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import nn

from gapless.config import EvalPlan
from gapless.environment import join_processes
from gapless.errors import ConfigError
from gapless.eval.datasets import Asked, Part, find_dataset
from gapless.eval.features import Autocast
from gapless.eval.interpolate import set_between
from gapless.eval.plan import check_plan, dataset_names
from gapless.eval.results import Result, file_hash, save_result
from gapless.eval.suite import Suite
from gapless.eval.tasks import score, with_settings
from gapless.geometry import Transform
from gapless.models import ClipModel, LoadedModel, Tokenizer, TwinModel
from gapless.run_folder import TRANSFORM_FILE

logger = logging.getLogger(__name__)

Keep = Callable[[Result], None]


def _drop(result: Result) -> None:
    return None


def evaluate(
    loaded: LoadedModel,
    plan: EvalPlan,
    cache_folder: Path | None = None,
    run: Path | None = None,
    keep: Keep = _drop,
    variant: str = "",
    settings: Mapping[str, Any] | None = None,
) -> list[Result]:
    """Score a model at everything a plan names.

    Every data set is opened before the first is scored, so that one that is missing is an error at once.

    Args:
        loaded: the model.
        plan: data sets and settings.
        cache_folder: where image features are kept; None keeps none.
        run: folder of the model's run, for its own validation set.
        keep: called with each result as soon as it is there.
        variant: what of the model is scored, a checkpoint for example.
        settings: further ones, of how the model was made.

    Raises:
        ConfigError: an unknown data set or a setting out of range.
        DataError: data that are missing or cannot be used.
        NonFiniteError: features that are not finite.
    """
    join_processes()
    check_plan(plan)
    if isinstance(loaded.model, TwinModel) and loaded.model.towers != "image-text" and plan.datasets != ["val"]:
        raise ConfigError(f"datasets: {loaded.name} has {loaded.model.towers} towers, it can be scored on val only")
    transform, moved_by = _transform(loaded, plan)
    suite = Suite(loaded, cache_folder, plan.precision, plan.batch_size, plan.workers, plan.max_bad_fraction, transform)
    weights = os.path.realpath(loaded.pretrained) if Path(loaded.pretrained).exists() and loaded.pretrained else ""
    opened = [(name, find_dataset(name).open(Asked(name, plan, loaded, run))) for name in dataset_names(plan)]
    results = []
    for name, parts in opened:
        logger.info("%s on %s", loaded.name, name)
        for part in parts:
            for result in score(part.data, plan, suite):
                _describe(result, part)
                with_settings(result, plan, "precision")
                result.settings |= {**moved_by, **(settings or {})}
                result.weights, result.variant = weights, variant
                keep(result)
                results.append(result)
    return results


def _describe(result: Result, part: Part) -> None:
    """Give a result what is known of its data."""
    result.data, result.split = part.place, part.split
    result.settings |= part.settings
    if part.split != part.default and part.split:
        result.settings["split"] = part.split


def _transform(loaded: LoadedModel, plan: EvalPlan) -> tuple[Transform | None, dict[str, str]]:
    """The plan's map, or the one that the export carries, and what results call it."""
    carried = Path(loaded.pretrained) / TRANSFORM_FILE
    path = plan.transform or (carried if loaded.pretrained and carried.is_file() else None)
    if path is None:
        return None, {}
    if "val" in plan.datasets:
        raise ConfigError(f"transform: not with val, which repeats the run's own evaluation ({path})")
    transform = Transform.load(path)
    logger.info("embeddings are moved by %s (%s)", path, transform.method)
    return transform, {"transform": f"{transform.method} {file_hash(path)}"}


class PlanEvaluation:
    """The data sets of a plan as an evaluation in training.

    Args:
        tokenizer: the model's.
        plan: what is scored.
    """

    def __init__(self, tokenizer: Tokenizer, plan: EvalPlan) -> None:
        self.tokenizer, self.plan = tokenizer, plan

    def run(
        self, model: nn.Module, autocast: Autocast = nullcontext, poll: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """``<data set>/<metric>``, the same on every process; in the plan's precision."""
        assert isinstance(model, ClipModel)
        training = model.training
        scores: dict[str, float] = {}
        for name in self.plan.datasets:
            results = evaluate(LoadedModel(model, self.tokenizer, "", ""), replace(self.plan, datasets=[name]))
            scores |= {f"{r.dataset}/{metric}": value for r in results for metric, value in r.metrics.items()}
            poll()
        model.train(training)
        return scores


def evaluate_between(
    base: LoadedModel, tuned: LoadedModel, alphas: Sequence[float], plan: EvalPlan, keep: Keep = _drop
) -> dict[str, list[Result]]:
    """Results of the models between a base and a fine-tuned one, by ``alpha=...``; no features are kept."""
    ends = base.model.clip.state_dict(), {n: t.clone() for n, t in tuned.model.clip.state_dict().items()}
    place = Path(base.pretrained)
    settings = {"base": os.path.realpath(place) if place.is_dir() else f"{base.name} {base.pretrained}"}
    results = {}
    for alpha in alphas:
        set_between(tuned.model, *ends, alpha)
        between = LoadedModel(tuned.model, tuned.tokenizer, f"{tuned.name}@{alpha:g}", tuned.pretrained)
        results[f"alpha={alpha:g}"] = evaluate(between, plan, keep=keep, variant=f"{alpha:g}", settings=settings)
    return results


def save_on_main(folder: Path, result: Result) -> None:
    """Write a result, on the main process only."""
    if PartialState().is_main_process:
        save_result(result, folder)
