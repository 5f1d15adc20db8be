"""What a model is scored at: a record for each task, by the kind of data that it is for.

Data sets are opened as data of these kinds (:mod:`gapless.eval.datasets`). Axis letters: N images, T texts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from gapless.config import EvalPlan
from gapless.data import PairSource
from gapless.data.labelled import LabelledSet
from gapless.data.questions import Question, Selection
from gapless.errors import ConfigError
from gapless.eval.arithmetic import WordEdits, evaluate_arithmetic
from gapless.eval.choices import evaluate_selection, evaluate_vqa
from gapless.eval.embeddings import Embeddings, rows_of_groups
from gapless.eval.metrics.grouping import intra_modal_retrieval, joint_clustering, mixed_recall
from gapless.eval.metrics.retrieval import recall_at, retrieval_ranks
from gapless.eval.noise import choice_noise, class_noise
from gapless.eval.pairs import PairEvaluation
from gapless.eval.results import Result
from gapless.eval.suite import Suite
from gapless.geometry import pseudo_values, separability_hits, smooth_measures, whole_gap

LEAST_PAIRS = 5
"""Pairs that the measures of the gap need."""
LEAST_JACKKNIFE, MOST_JACKKNIFE = 50, 5_000
"""Between so many pairs the gap gets intervals: fewer do not fill its blocks, and more take twenty times as long."""
CUTOFFS = (1, 5, 10)
"""Ranks of the recalls whose samples are kept."""


class Pairs:
    """Images with captions.

    Args:
        name: of the data set.
        source: the pairs.
        captions: those of an image that are embedded: all, or first.
        classes: of images by their keys, for clustering; None where there are none.
        groups: of images that are no independent samples, by their keys.
    """

    def __init__(
        self,
        name: str,
        source: PairSource,
        captions: str = "all",
        classes: Mapping[str, int] | None = None,
        groups: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.name, self.source, self.captions, self.classes, self.groups = name, source, captions, classes, groups
        self._embedded: Embeddings | None = None

    def embedded(self, suite: Suite) -> Embeddings:
        """Their features, which all tasks share."""
        if self._embedded is None:
            self._embedded = suite.embed(self.name, self.source, self.captions)
        return self._embedded


@dataclass(frozen=True)
class Classes:
    """Images with classes."""

    data: LabelledSet
    train: LabelledSet | None
    """What a linear probe is fitted on."""


@dataclass(frozen=True)
class Questions:
    """Multiple-choice questions on images."""

    name: str
    questions: Sequence[Question]


@dataclass(frozen=True)
class Selections:
    """Images and captions that are mixed up."""

    name: str
    instances: Sequence[Selection]


@dataclass(frozen=True)
class Validation:
    """The very evaluation that a run does while it trains."""

    evaluation: PairEvaluation


Data = Pairs | Classes | Questions | Selections | WordEdits | Validation


def retrieval(suite: Suite, pairs: Pairs, plan: EvalPlan) -> list[Result]:
    """Images by their captions and captions by their images."""
    embedded = pairs.embedded(suite)
    image_ranks, text_ranks = _ranks_in_folds(embedded, plan.folds)
    counts = {"num_images": float(len(embedded.image)), "num_texts": float(len(embedded.text))}
    task = "zeroshot_retrieval" if plan.captions == "all" else "zeroshot_retrieval_first_caption"
    metrics = recall_at(image_ranks, text_ranks) | counts
    of_images = rows_of_groups(embedded.keys, pairs.groups)
    samples, groups = {}, {}
    for k in CUTOFFS:
        for name, ranks, rows in (
            ("image_retrieval_recall", image_ranks, of_images[embedded.image_of_text]),
            ("text_retrieval_recall", text_ranks, of_images),
        ):
            samples[f"{name}@{k}"], groups[f"{name}@{k}"] = (ranks < k).float(), rows
    result = suite.result(pairs.name, task, metrics, embedded, samples, groups)
    result.num_bad += embedded.without_caption
    return [result]


def _ranks_in_folds(embedded: Embeddings, folds: int) -> tuple[Tensor, Tensor]:
    """Ranks of every text and image among those of its fold."""
    images, n = embedded.image, len(embedded.image)
    if folds > n:
        raise ConfigError(f"folds: {folds} does not work, it must be between 1 and the {n} images")
    ranks = []
    for k in range(folds):
        first, end = n * k // folds, n * (k + 1) // folds
        texts = (embedded.image_of_text >= first) & (embedded.image_of_text < end)
        ranks.append(retrieval_ranks(images[first:end], embedded.text[texts], embedded.image_of_text[texts] - first))
    return torch.cat([image for image, _ in ranks]), torch.cat([text for _, text in ranks])


def gap(suite: Suite, pairs: Pairs, plan: EvalPlan) -> list[Result]:
    """The gap between images and their first captions."""
    embedded = pairs.embedded(suite)
    images, texts = embedded.image, embedded.first_text
    if len(images) < LEAST_PAIRS:
        return []
    samples, groups = _gap_samples(images, texts, rows_of_groups(embedded.keys, pairs.groups))
    return [suite.result(pairs.name, "gap", whole_gap(images, texts), embedded, samples, groups)]


def _gap_samples(images: Tensor, texts: Tensor, rows: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the intervals of the gap are taken over, and groups: held-out points of the probe, blocks of the others."""
    if not LEAST_JACKKNIFE <= len(images) <= MOST_JACKKNIFE:
        return {}, {}
    hits, held_out = separability_hits(images, texts)
    samples = pseudo_values(smooth_measures, images, texts, rows)
    return samples | {"linear_separability": hits.float()}, {"linear_separability": rows[held_out]}


def mixed(suite: Suite, pairs: Pairs, plan: EvalPlan) -> list[Result]:
    """Images by their first captions, among images and texts."""
    embedded = pairs.embedded(suite)
    metrics = mixed_recall(embedded.image, embedded.first_text)
    return [suite.result(pairs.name, "mixed_modality_retrieval", metrics, embedded)]


def texts_among_texts(suite: Suite, pairs: Pairs, plan: EvalPlan) -> list[Result]:
    """Texts by other texts of their image."""
    embedded = pairs.embedded(suite)
    scores = intra_modal_retrieval(embedded.text, embedded.image_of_text)
    metrics = {f"text_{name}": value for name, value in scores.items()}
    return [suite.result(pairs.name, "intra_modal_retrieval", metrics, embedded)]


def clustering(suite: Suite, pairs: Pairs, plan: EvalPlan) -> list[Result]:
    """Clusters of images and first captions together against the classes of the images that have one."""
    if pairs.classes is None:
        return []
    embedded = pairs.embedded(suite)
    labels = torch.tensor([pairs.classes.get(key, -1) for key in embedded.keys])
    known = labels >= 0
    metrics = joint_clustering(embedded.image[known], embedded.first_text[known], labels[known])
    return [suite.result(pairs.name, "joint_clustering", metrics, embedded)]


def linear_probe(suite: Suite, classes: Classes, plan: EvalPlan) -> list[Result]:
    """A linear classifier, fitted on the train split."""
    return [suite.linear_probe(classes.train, classes.data)] if classes.train is not None else []


def images_among_images(suite: Suite, classes: Classes, plan: EvalPlan) -> list[Result]:
    """Images by other images of their class."""
    embedded = suite.labelled(classes.data)
    scores = intra_modal_retrieval(embedded.image, embedded.labels)
    metrics = {f"image_{name}": value for name, value in scores.items()}
    return [suite.result(classes.data.name, "intra_modal_retrieval", metrics, embedded)]


def validation(suite: Suite, data: Validation, plan: EvalPlan) -> list[Result]:
    """What a run logged while it trained."""
    scores = data.evaluation.run(suite.model, suite.autocast)
    number = int(scores["val/num_samples"])
    return [Result("val", "pairs", scores, suite.loaded.name, suite.loaded.pretrained, num_samples=number)]


@dataclass(frozen=True)
class Task:
    """A record of the table."""

    name: str | None
    """What a plan calls it; None for what is scored of such data whatever the plan asks for."""
    run: Callable[[Suite, Any, EvalPlan], list[Result]]
    """Scores a model at data of its kind."""
    settings: tuple[str, ...] = ()
    """Keys of the plan that change the numbers."""


TASKS: Mapping[type, Sequence[Task]] = {
    Pairs: (
        Task("retrieval", retrieval, ("folds",)),
        Task("gap", gap),
        Task("mixed", mixed),
        Task("intra_modal", texts_among_texts, ("captions",)),
        Task("clustering", clustering),
    ),
    Classes: (
        Task("zero_shot", lambda suite, classes, plan: [suite.zero_shot(classes.data)], ("prompts",)),
        Task(
            "robustness",
            lambda suite, classes, plan: [class_noise(suite, classes.data, plan.noise, plan.draws)],
            ("prompts", "noise", "draws"),
        ),
        Task("linear_probe", linear_probe),
        Task("intra_modal", images_among_images),
    ),
    Questions: (
        Task(None, lambda suite, data, plan: [evaluate_vqa(suite, data.questions, data.name)]),
        Task(
            "robustness",
            lambda suite, data, plan: [choice_noise(suite, data.questions, data.name, plan.noise, plan.draws)],
            ("noise", "draws"),
        ),
    ),
    Selections: (Task(None, lambda suite, data, plan: [evaluate_selection(suite, data.instances, data.name)]),),
    WordEdits: (Task(None, lambda suite, data, plan: [evaluate_arithmetic(suite, data, plan.lambdas)], ("lambdas",)),),
    Validation: (Task(None, validation),),
}
"""Tasks of each kind of data, in the order in which they are scored."""


def score(data: Data, plan: EvalPlan, suite: Suite) -> Iterator[Result]:
    """Results of some data at the tasks of their kind that a plan asks for, each as soon as it is there."""
    for task in TASKS[type(data)]:
        if task.name is None or task.name in plan.tasks:
            for result in task.run(suite, data, plan):
                yield with_settings(result, plan, *task.settings)


def with_settings(result: Result, plan: EvalPlan, *keys: str) -> Result:
    """The result with those of some keys of its plan that are not the defaults."""
    default = EvalPlan()
    given = {key: getattr(plan, key) for key in keys}
    result.settings |= {key: value for key, value in given.items() if value != getattr(default, key)}
    return result
