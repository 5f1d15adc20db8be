"""From the names of data sets to results: what ``gapless eval`` does."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import nn

from gapless.config import DataConfig, EvalPlan, load_config
from gapless.data import build_source
from gapless.data.benchmark import RETRIEVAL_SETS, place_of, read_retrieval, shard_paths, shards_type
from gapless.data.emoji import emoji_classes
from gapless.data.labelled import LabelledSet, build_labelled
from gapless.data.pairs import FileSource
from gapless.data.questions import load_aokvqa, load_sugarcrepe, load_winoground
from gapless.data.shards import ShardSource
from gapless.environment import join_processes
from gapless.errors import ConfigError, DataError
from gapless.eval.arithmetic import open_simat
from gapless.eval.choices import evaluate_selection
from gapless.eval.features import Autocast
from gapless.eval.interpolate import set_between
from gapless.eval.pairs import PairEvaluation, build_pair_evaluation
from gapless.eval.plan import absolute, check_plan, dataset_names, pairs_place, pairs_settings, with_settings
from gapless.eval.results import Result, file_hash, save_result
from gapless.eval.scores import (
    of_split,
    score_classes,
    score_emoji,
    score_own,
    score_questions,
    score_simat,
    score_source,
)
from gapless.eval.suite import Suite
from gapless.geometry import Transform
from gapless.models import ClipModel, LoadedModel, Tokenizer, TwinModel

logger = logging.getLogger(__name__)

Scores = Callable[[Suite], Iterator[Result]]
"""Scores a model at one data set, which was opened before."""
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

    Every data set is opened before the first is scored, so that one that is missing is found out at once.

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
    transform, told = _transform(loaded, plan)
    suite = Suite(loaded, cache_folder, plan.precision, plan.batch_size, plan.workers, plan.max_bad_fraction, transform)
    weights = os.path.realpath(loaded.pretrained) if Path(loaded.pretrained).exists() and loaded.pretrained else ""
    opened = [(name, _open(name, plan, run, suite)) for name in dataset_names(plan)]
    found = []
    for name, score in opened:
        logger.info("%s on %s", loaded.name, name)
        for result in score(suite):
            with_settings(result, plan, "precision")
            result.settings |= {**told, **(settings or {})}
            result.weights, result.variant = weights, variant
            keep(result)
            found.append(result)
    return found


def _transform(loaded: LoadedModel, plan: EvalPlan) -> tuple[Transform | None, dict[str, str]]:
    """The plan's map, or the one that the export carries, and what results call it."""
    carried = Path(loaded.pretrained) / "transform.safetensors"
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
            found = evaluate(LoadedModel(model, self.tokenizer, "", ""), replace(self.plan, datasets=[name]))
            scores |= {f"{r.dataset}/{metric}": value for r in found for metric, value in r.metrics.items()}
            poll()
        model.train(training)
        return scores


def _open(name: str, plan: EvalPlan, run: Path | None, suite: Suite) -> Scores:
    """Open a data set; what is missing is an error here."""
    split = plan.split or "test"
    if name == "emoji":
        classes = [_classes(task, plan, split) for task in emoji_classes()]
        return partial(score_emoji, build_source(DataConfig(), split), classes, plan, split)
    if name == "val":
        return partial(score_own, _own_evaluation(suite, run))
    if name == "pairs":
        split = plan.split or "val"
        score: Scores = partial(score_source, plan.data.source, build_source(plan.data, split), plan)
        return _placed(score, pairs_place(plan.data), split, "val", pairs_settings(plan.data))
    if name in emoji_classes():
        return _placed(partial(score_classes, *_classes(name, plan, split), plan), "", split)
    folder = _folder(plan, name)
    score, default = _opened(name, folder, plan, split)
    return _placed(score, absolute(str(folder)), split if default else "", default)


def _opened(name: str, folder: Path, plan: EvalPlan, split: str) -> tuple[Scores, str]:
    """A data set that lies in a folder, and the split that is its default; empty if there is one only."""
    if name == "simat":
        domain = plan.split or "dev"
        open_simat(folder)
        return partial(score_simat, folder, plan, domain), ""
    if name == "aokvqa":
        return partial(score_questions, load_aokvqa(folder / "aokvqa_v1p0_val.json", folder / "val2017"), plan), ""
    if name == "winoground" or name.startswith("sugar_crepe/"):
        instances = (
            load_winoground(folder / "examples.jsonl", folder / "images")
            if name == "winoground"
            else load_sugarcrepe(folder / f"{name.partition('/')[2]}.json", folder / "val2017")
        )
        return lambda suite: iter([evaluate_selection(suite, instances, name)]), ""
    if name in RETRIEVAL_SETS:
        return partial(score_source, name, FileSource(read_retrieval(name, folder, split)), plan), "test"
    if name.startswith("wds/") and shards_type(folder) == "retrieval":
        return partial(score_source, name, ShardSource(shard_paths(folder, split)), plan), "test"
    return partial(score_classes, *_classes(name, plan, split), plan), "test"


def _classes(name: str, plan: EvalPlan, split: str) -> tuple[LabelledSet, LabelledSet | None]:
    """A classification data set, and its train split where a probe is fitted."""
    data = build_labelled(name, plan.root, split, plan.download, plan.prompts)
    return data, build_labelled(name, plan.root, "train", plan.download) if "linear_probe" in plan.tasks else None


def _placed(
    score: Scores, place: str, split: str, default: str = "test", settings: Mapping[str, Any] | None = None
) -> Scores:
    """The same, every result with where its data lie and which of them it is of."""

    def placed(suite: Suite) -> Iterator[Result]:
        for result in score(suite):
            result.data, result.settings = place, result.settings | dict(settings or {})
            yield of_split(result, split, default) if split else result

    return placed


def _folder(plan: EvalPlan, name: str) -> Path:
    if plan.root is None:
        raise ConfigError(f"root: {name} needs the folder where it lies, for example /data/{{dataset}}")
    return place_of(plan.root, name)


def _own_evaluation(suite: Suite, run: Path | None) -> PairEvaluation:
    """The very evaluation that the run did while it trained."""
    if run is None or not (run / "config.yaml").is_file():
        raise DataError("datasets: val needs a run's folder with its config.yaml")
    return build_pair_evaluation(load_config(run / "config.yaml"), suite.loaded.model, suite.loaded.tokenizer)


def evaluate_between(
    base: LoadedModel, tuned: LoadedModel, alphas: Sequence[float], plan: EvalPlan, keep: Keep = _drop
) -> dict[str, list[Result]]:
    """Results of the models between a base and a fine-tuned one, by ``alpha=...``; no features are kept."""
    ends = base.model.clip.state_dict(), {n: t.clone() for n, t in tuned.model.clip.state_dict().items()}
    place = Path(base.pretrained)
    told = {"base": os.path.realpath(place) if place.is_dir() else f"{base.name} {base.pretrained}"}
    found = {}
    for alpha in alphas:
        set_between(tuned.model, *ends, alpha)
        between = LoadedModel(tuned.model, tuned.tokenizer, f"{tuned.name}@{alpha:g}", tuned.pretrained)
        found[f"alpha={alpha:g}"] = evaluate(between, plan, keep=keep, variant=f"{alpha:g}", settings=told)
    return found


def save_on_main(folder: Path, result: Result) -> None:
    """Write a result, on the main process only."""
    if PartialState().is_main_process:
        save_result(result, folder)
