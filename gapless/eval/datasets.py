"""The data sets that a model can be scored on, by name: how each is opened, and what is scored on it.

A data set is a function that opens it and a record in :data:`DATASETS`. What is missing is an error when it is opened,
before anything is scored.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gapless.config import DataConfig, EvalPlan, load_config
from gapless.data import PairSource, build_source
from gapless.data.benchmark import RETRIEVAL_SETS, place_of, read_retrieval, shard_paths, shards_type
from gapless.data.emoji import emoji_classes
from gapless.data.labelled import build_labelled
from gapless.data.pairs import FileSource
from gapless.data.questions import Question, Selection, load_aokvqa, load_sugarcrepe, load_winoground
from gapless.data.shards import ShardSource
from gapless.errors import ConfigError, DataError
from gapless.eval.arithmetic import evaluate_emoji_arithmetic, evaluate_simat, open_simat
from gapless.eval.choices import evaluate_selection, evaluate_vqa
from gapless.eval.metrics.simat import Domain
from gapless.eval.noise import choice_noise
from gapless.eval.pairs import PairEvaluation, build_pair_evaluation
from gapless.eval.plan import absolute, pairs_place, pairs_settings, with_settings
from gapless.eval.results import Result
from gapless.eval.suite import Suite
from gapless.eval.tasks import CLASS_TASKS, PAIR_TASKS, Classes, Pairs, run_tasks
from gapless.run_folder import CONFIG_FILE

Scores = Callable[[Suite], Iterator[Result]]
"""Scores a model at one data set, which was opened before: results one by one, as soon as they are there."""


@dataclass(frozen=True)
class Opening:
    """What a data set is opened with."""

    name: str
    plan: EvalPlan
    run: Path | None
    """Folder of the model's run, for its own validation set."""
    suite: Suite

    @property
    def split(self) -> str:
        """The one to score, test if the plan names none."""
        return self.plan.split or "test"

    @property
    def folder(self) -> Path:
        """Where the data set lies.

        Raises:
            ConfigError: the plan has no root.
        """
        if self.plan.root is None:
            raise ConfigError(f"root: {self.name} needs the folder where it lies, for example /data/{{dataset}}")
        return place_of(self.plan.root, self.name)

    def placed(self, scores: Scores, split: str = "", default: str = "") -> Scores:
        """The same scores, each with the folder of its data and the split that it is of, if there are several."""
        return _placed(scores, absolute(str(self.folder)), split, default)

    def classes(self) -> Classes:
        """As images with classes, with the train split if a probe is fitted."""
        plan = self.plan
        data = build_labelled(self.name, plan.root, self.split, plan.download, plan.prompts)
        has_probe = "linear_probe" in plan.tasks
        return Classes(plan, data, build_labelled(self.name, plan.root, "train", plan.download) if has_probe else None)


def open_dataset(opening: Opening) -> Scores:
    """Open a data set of :data:`DATASETS`, or one with classes that torchvision or clip_benchmark reads.

    Raises:
        ConfigError: an unknown name, or no root where one is needed.
        DataError: files that are missing or malformed.
    """
    family = next((key for key in DATASETS if key[-1] in "/_" and opening.name.startswith(key)), "")
    return DATASETS.get(opening.name, DATASETS.get(family, _labelled))(opening)


def _placed(
    scores: Scores, place: str, split: str, default: str = "test", settings: Mapping[str, Any] | None = None
) -> Scores:
    def placed(suite: Suite) -> Iterator[Result]:
        for result in scores(suite):
            result.data, result.settings = place, result.settings | dict(settings or {})
            yield _of_split(result, split, default) if split else result

    return placed


def _of_split(result: Result, split: str, default: str) -> Result:
    """The result with its split, which is a setting where it is not the default."""
    result.split = split
    if split != default:
        result.settings["split"] = split
    return result


def _emoji(opening: Opening) -> Scores:
    """The pairs of the embedded emoji, their classes, and arithmetic."""
    source = build_source(DataConfig(), opening.split)
    classes = [Opening(name, opening.plan, None, opening.suite).classes() for name in emoji_classes()]
    plan, split = opening.plan, opening.split

    def scores(suite: Suite) -> Iterator[Result]:
        embedded = suite.embed("emoji", source, plan.captions)
        groups = emoji_classes()["emoji_group"].labels
        labels = torch.tensor([groups.get(key, -1) for key in embedded.keys])
        results = [run_tasks(PAIR_TASKS, Pairs(plan, "emoji", embedded, labels), suite)]
        results += [run_tasks(CLASS_TASKS, each, suite) for each in classes]
        for several in results:
            for result in several:
                yield _of_split(result, split, "test")
        if "arithmetic" in plan.tasks:
            domain: Domain = "test" if split == "test" else "dev"
            result = evaluate_emoji_arithmetic(suite, plan.lambdas, domain)
            yield _of_split(
                with_settings(result, plan, "lambdas"), domain, domain
            )  # its data set is named by the split

    return scores


def _own(opening: Opening) -> Scores:
    """The very evaluation that the model's run did while it trained."""
    if opening.run is None or not (opening.run / CONFIG_FILE).is_file():
        raise DataError("datasets: val needs a run's folder with its config.yaml")
    loaded = opening.suite.loaded
    return partial(
        _score_own, build_pair_evaluation(load_config(opening.run / CONFIG_FILE), loaded.model, loaded.tokenizer)
    )


def _score_own(evaluation: PairEvaluation, suite: Suite) -> Iterator[Result]:
    scores = evaluation.run(suite.model, suite.autocast)
    number = int(scores["val/num_samples"])
    yield Result("val", "pairs", scores, suite.loaded.name, suite.loaded.pretrained, num_samples=number)


def _score_source(name: str, source: PairSource, plan: EvalPlan, suite: Suite) -> Iterator[Result]:
    """Pairs without classes."""
    return run_tasks(PAIR_TASKS, Pairs(plan, name, suite.embed(name, source, plan.captions)), suite)


def _pairs(opening: Opening) -> Scores:
    """The pairs that the plan's data name."""
    plan, split = opening.plan, opening.plan.split or "val"
    scores = partial(_score_source, plan.data.source, build_source(plan.data, split), plan)
    return _placed(scores, pairs_place(plan.data), split, "val", pairs_settings(plan.data))


def _emoji_classes(opening: Opening) -> Scores:
    return _placed(partial(run_tasks, CLASS_TASKS, opening.classes()), "", opening.split)


def _labelled(opening: Opening) -> Scores:
    return opening.placed(partial(run_tasks, CLASS_TASKS, opening.classes()), opening.split, "test")


def _shards(opening: Opening) -> Scores:
    if shards_type(opening.folder) != "retrieval":
        return _labelled(opening)
    source = ShardSource(shard_paths(opening.folder, opening.split))
    return opening.placed(partial(_score_source, opening.name, source, opening.plan), opening.split, "test")


def _retrieval(opening: Opening) -> Scores:
    source = FileSource(read_retrieval(opening.name, opening.folder, opening.split))
    return opening.placed(partial(_score_source, opening.name, source, opening.plan), opening.split, "test")


def _simat(opening: Opening) -> Scores:
    folder, plan = opening.folder, opening.plan
    domain: Domain = "test" if plan.split == "test" else "dev"
    open_simat(folder)

    def scores(suite: Suite) -> Iterator[Result]:
        result = evaluate_simat(suite, folder, plan.lambdas, domain, plan.heads)
        yield _of_split(with_settings(result, plan, "lambdas"), domain, domain)

    return opening.placed(scores)


def _aokvqa(opening: Opening) -> Scores:
    questions = load_aokvqa(opening.folder / "aokvqa_v1p0_val.json", opening.folder / "val2017")
    return opening.placed(partial(_score_questions, questions, opening.plan))


def _score_questions(questions: list[Question], plan: EvalPlan, suite: Suite) -> Iterator[Result]:
    yield evaluate_vqa(suite, questions)
    if "robustness" in plan.tasks:
        yield with_settings(choice_noise(suite, questions, "aokvqa", plan.noise, plan.draws), plan, "noise", "draws")


def _winoground(opening: Opening) -> Scores:
    return _selection(opening, load_winoground(opening.folder / "examples.jsonl", opening.folder / "images"))


def _sugar_crepe(opening: Opening) -> Scores:
    annotations = opening.folder / f"{opening.name.partition('/')[2]}.json"
    return _selection(opening, load_sugarcrepe(annotations, opening.folder / "val2017"))


def _selection(opening: Opening, instances: list[Selection]) -> Scores:
    return opening.placed(lambda suite: iter([evaluate_selection(suite, instances, opening.name)]))


DATASETS: dict[str, Callable[[Opening], Scores]] = {
    "emoji": _emoji,
    "emoji_": _emoji_classes,
    "val": _own,
    "pairs": _pairs,
    "simat": _simat,
    "aokvqa": _aokvqa,
    "winoground": _winoground,
    "sugar_crepe/": _sugar_crepe,
    "wds/": _shards,
    **dict.fromkeys(RETRIEVAL_SETS, _retrieval),
}
"""Data sets by their names; a key that ends with / or _ stands for all names that begin with it."""
