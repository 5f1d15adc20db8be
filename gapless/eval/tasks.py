"""The tasks that a model can be scored at, by the names that a plan has for them.

A task is a function of an opened data set and a model, and a record in the table of its kind of data set.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from gapless.config import EvalPlan
from gapless.data.labelled import LabelledSet
from gapless.errors import ConfigError
from gapless.eval.metrics.grouping import intra_modal_retrieval, joint_clustering, mixed_recall
from gapless.eval.metrics.retrieval import recall_at, retrieval_ranks
from gapless.eval.noise import class_noise
from gapless.eval.plan import with_settings
from gapless.eval.results import Result
from gapless.eval.suite import EmbeddedPairs, Suite
from gapless.geometry import whole_gap

LEAST_PAIRS = 5
"""Pairs that the measures of the gap need."""


class Opened(Protocol):
    """What every opened data set has."""

    @property
    def plan(self) -> EvalPlan: ...


Data = TypeVar("Data", bound=Opened)
Task = Callable[[Data, Suite], Result | None]
"""Scores a model; None where the data set has not what the task needs."""


@dataclass(frozen=True)
class Classes:
    """Images with classes."""

    plan: EvalPlan
    data: LabelledSet
    train: LabelledSet | None = None
    """The train split, where a probe is fitted."""


@dataclass(frozen=True)
class Pairs:
    """Images with captions, embedded."""

    plan: EvalPlan
    name: str
    """Of the data set."""
    embedded: EmbeddedPairs
    labels: Tensor | None = None
    """int64 (N,): class of each image, -1 for none; None where there are no classes."""


def run_tasks(table: Mapping[str, Task[Data]], data: Data, suite: Suite) -> Iterator[Result]:
    """The results of all tasks of a table that the plan asks for, one by one."""
    for name, task in table.items():
        result = task(data, suite) if name in data.plan.tasks else None
        if result is not None:
            yield result


def _zero_shot(classes: Classes, suite: Suite) -> Result:
    return with_settings(suite.zero_shot(classes.data), classes.plan, "prompts")


def _class_robustness(classes: Classes, suite: Suite) -> Result:
    plan = classes.plan
    return with_settings(class_noise(suite, classes.data, plan.noise, plan.draws), plan, "prompts", "noise", "draws")


def _linear_probe(classes: Classes, suite: Suite) -> Result | None:
    return suite.linear_probe(classes.train, classes.data) if classes.train is not None else None


def _images_of_a_class(classes: Classes, suite: Suite) -> Result:
    images = suite.labelled(classes.data)
    metrics = {f"image_{k}": v for k, v in intra_modal_retrieval(images.features, images.labels).items()}
    return suite.result(classes.data.name, "intra_modal_retrieval", metrics, images)


CLASS_TASKS: dict[str, Task[Classes]] = {
    "zero_shot": _zero_shot,
    "robustness": _class_robustness,
    "linear_probe": _linear_probe,
    "intra_modal": _images_of_a_class,
}
"""Tasks on images with classes."""


def _retrieval(pairs: Pairs, suite: Suite) -> Result:
    embedded, images = pairs.embedded, pairs.embedded.images
    image_ranks, text_ranks = _ranks_in_folds(embedded, pairs.plan.folds)
    counts = {"num_images": float(len(images.features)), "num_texts": float(len(embedded.texts))}
    first = {"image_retrieval_recall@1": image_ranks < 1, "text_retrieval_recall@1": text_ranks < 1}
    task = "zeroshot_retrieval" if pairs.plan.captions == "all" else "zeroshot_retrieval_first_caption"
    metrics = recall_at(image_ranks, text_ranks) | counts
    result = suite.result(pairs.name, task, metrics, images, {k: v.float() for k, v in first.items()})
    result.num_bad += embedded.without_caption
    return with_settings(result, pairs.plan, "folds")


def _ranks_in_folds(embedded: EmbeddedPairs, folds: int) -> tuple[Tensor, Tensor]:
    """Ranks of every text and image among those of its fold."""
    images, n = embedded.images.features, len(embedded.images.features)
    if folds > n:
        raise ConfigError(f"folds: {folds} does not work, it must be between 1 and the {n} images")
    ranks = []
    for k in range(folds):
        first, end = n * k // folds, n * (k + 1) // folds
        texts = (embedded.owner >= first) & (embedded.owner < end)
        ranks.append(retrieval_ranks(images[first:end], embedded.texts[texts], embedded.owner[texts] - first))
    return torch.cat([image for image, _ in ranks]), torch.cat([text for _, text in ranks])


def _gap(pairs: Pairs, suite: Suite) -> Result | None:
    images, firsts = pairs.embedded.images, pairs.embedded.firsts
    if len(firsts) < LEAST_PAIRS:
        return None
    return suite.result(pairs.name, "gap", whole_gap(images.features, firsts), images)


def _mixed(pairs: Pairs, suite: Suite) -> Result:
    images = pairs.embedded.images
    metrics = mixed_recall(images.features, pairs.embedded.firsts)
    return suite.result(pairs.name, "mixed_modality_retrieval", metrics, images)


def _captions_of_an_image(pairs: Pairs, suite: Suite) -> Result:
    embedded = pairs.embedded
    metrics = {f"text_{k}": v for k, v in intra_modal_retrieval(embedded.texts, embedded.owner).items()}
    result = suite.result(pairs.name, "intra_modal_retrieval", metrics, embedded.images)
    return with_settings(result, pairs.plan, "captions")


def _clustering(pairs: Pairs, suite: Suite) -> Result | None:
    if pairs.labels is None:
        return None
    known, images = pairs.labels >= 0, pairs.embedded.images
    metrics = joint_clustering(images.features[known], pairs.embedded.firsts[known], pairs.labels[known])
    return suite.result(pairs.name, "joint_clustering", metrics, images)


PAIR_TASKS: dict[str, Task[Pairs]] = {
    "retrieval": _retrieval,
    "gap": _gap,
    "mixed": _mixed,
    "intra_modal": _captions_of_an_image,
    "clustering": _clustering,
}
"""Tasks on images with captions."""
