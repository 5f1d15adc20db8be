"""Everything that is scored on one data set, which was opened before: results one by one, as soon as they are there."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from gapless.config import EvalPlan
from gapless.data import PairSource
from gapless.data.emoji import emoji_classes
from gapless.data.labelled import LabelledSet
from gapless.data.questions import Question
from gapless.errors import ConfigError
from gapless.eval.arithmetic import evaluate_emoji_arithmetic, evaluate_simat
from gapless.eval.choices import evaluate_vqa
from gapless.eval.metrics.grouping import intra_modal_retrieval, joint_clustering, mixed_recall
from gapless.eval.metrics.retrieval import recall_at, retrieval_ranks
from gapless.eval.metrics.simat import Domain
from gapless.eval.noise import choice_noise, class_noise
from gapless.eval.pairs import PairEvaluation
from gapless.eval.plan import with_settings
from gapless.eval.results import Result
from gapless.eval.suite import EmbeddedPairs, Suite
from gapless.geometry import whole_gap


def of_split(result: Result, split: str, default: str) -> Result:
    """The result with the split that it is of, which is a setting where it is not the default."""
    result.split = split
    if split != default:
        result.settings["split"] = split
    return result


def score_emoji(
    source: PairSource,
    classes: Sequence[tuple[LabelledSet, LabelledSet | None]],
    plan: EvalPlan,
    split: str,
    suite: Suite,
) -> Iterator[Result]:
    """The pairs of the embedded emoji, their classes (and those of the train split), and arithmetic."""
    embedded = suite.embed("emoji", source, plan.captions)
    groups = emoji_classes()["emoji_group"].labels
    labels = torch.tensor([groups.get(key, -1) for key in embedded.keys])
    for result in score_pairs("emoji", embedded, plan, suite, labels):
        yield of_split(result, split, "test")
    for data, train in classes:
        for result in score_classes(data, train, plan, suite):
            yield of_split(result, split, "test")
    if "arithmetic" in plan.tasks:
        domain: Domain = "test" if split == "test" else "dev"
        found = evaluate_emoji_arithmetic(suite, plan.lambdas, domain)
        yield of_split(with_settings(found, plan, "lambdas"), domain, domain)  # its data set is named by the split


def score_source(name: str, source: PairSource, plan: EvalPlan, suite: Suite) -> Iterator[Result]:
    """Pairs without classes."""
    yield from score_pairs(name, suite.embed(name, source, plan.captions), plan, suite)


def score_classes(data: LabelledSet, train: LabelledSet | None, plan: EvalPlan, suite: Suite) -> Iterator[Result]:
    """Images with classes; a linear probe is fitted on the train split."""
    if "zero_shot" in plan.tasks:
        yield with_settings(suite.zero_shot(data), plan, "prompts")
    if "robustness" in plan.tasks:
        yield with_settings(class_noise(suite, data, plan.noise, plan.draws), plan, "prompts", "noise", "draws")
    if "linear_probe" in plan.tasks and train is not None:
        yield suite.linear_probe(train, data)
    if "intra_modal" in plan.tasks:
        images = suite.labelled(data)
        metrics = {f"image_{k}": v for k, v in intra_modal_retrieval(images.features, images.labels).items()}
        yield suite.result(data.name, "intra_modal_retrieval", metrics, images)


def score_pairs(
    name: str, embedded: EmbeddedPairs, plan: EvalPlan, suite: Suite, labels: torch.Tensor | None = None
) -> Iterator[Result]:
    """Everything that a plan asks of pairs.

    Args:
        name: of the data set.
        embedded: its features.
        plan: whose tasks are scored.
        suite: the model.
        labels: class of each image for joint clustering, -1 for none; None where there are no classes.
    """
    images, firsts = embedded.images, embedded.firsts
    if "retrieval" in plan.tasks:
        image_ranks, text_ranks = _ranks_in_folds(embedded, plan.folds)
        counts = {"num_images": float(len(images.features)), "num_texts": float(len(embedded.texts))}
        first = {"image_retrieval_recall@1": image_ranks < 1, "text_retrieval_recall@1": text_ranks < 1}
        task = "zeroshot_retrieval" if plan.captions == "all" else "zeroshot_retrieval_first_caption"
        metrics = recall_at(image_ranks, text_ranks) | counts
        result = suite.result(name, task, metrics, images, {k: v.float() for k, v in first.items()})
        result.num_bad += embedded.without_caption
        yield with_settings(result, plan, "folds")
    if "gap" in plan.tasks and len(firsts) >= 5:
        yield suite.result(name, "gap", whole_gap(images.features, firsts), images)
    if "mixed" in plan.tasks:
        yield suite.result(name, "mixed_modality_retrieval", mixed_recall(images.features, firsts), images)
    if "intra_modal" in plan.tasks:
        metrics = {f"text_{k}": v for k, v in intra_modal_retrieval(embedded.texts, embedded.owner).items()}
        yield with_settings(suite.result(name, "intra_modal_retrieval", metrics, images), plan, "captions")
    if "clustering" in plan.tasks and labels is not None:
        known = labels >= 0
        metrics = joint_clustering(images.features[known], firsts[known], labels[known])
        yield suite.result(name, "joint_clustering", metrics, images)


def _ranks_in_folds(embedded: EmbeddedPairs, folds: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ranks of every text and image among those of its fold."""
    images, n = embedded.images.features, len(embedded.images.features)
    if folds > n:
        raise ConfigError(f"folds: {folds} does not work, it must be between 1 and the {n} images")
    found = []
    for k in range(folds):
        first, end = n * k // folds, n * (k + 1) // folds
        texts = (embedded.owner >= first) & (embedded.owner < end)
        found.append(retrieval_ranks(images[first:end], embedded.texts[texts], embedded.owner[texts] - first))
    return torch.cat([image for image, _ in found]), torch.cat([text for _, text in found])


def score_simat(folder: Path, plan: EvalPlan, domain: str, suite: Suite) -> Iterator[Result]:
    """SIMAT in its official layout."""
    found = evaluate_simat(suite, folder, plan.lambdas, "test" if domain == "test" else "dev", plan.heads)
    yield of_split(with_settings(found, plan, "lambdas"), domain, domain)


def score_questions(questions: Sequence[Question], plan: EvalPlan, suite: Suite) -> Iterator[Result]:
    """Multiple-choice questions."""
    yield evaluate_vqa(suite, questions)
    if "robustness" in plan.tasks:
        found = choice_noise(suite, questions, "aokvqa", plan.noise, plan.draws)
        yield with_settings(found, plan, "noise", "draws")


def score_own(evaluation: PairEvaluation, suite: Suite) -> Iterator[Result]:
    """The very evaluation that a run did while it trained."""
    scores = evaluation.run(suite.model, suite.autocast)
    number = int(scores["val/num_samples"])
    yield Result("val", "pairs", scores, suite.loaded.name, suite.loaded.pretrained, num_samples=number)
