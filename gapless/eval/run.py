"""From the names of data sets to results: what ``gapless eval`` does."""

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from torch import nn

from gapless.config import DataConfig, EvalPlan, load_config
from gapless.data import build_source
from gapless.data.benchmark import RETRIEVAL_SETS, place_of, read_retrieval, shard_paths, shards_type
from gapless.data.emoji import emoji_classes
from gapless.data.labelled import PAPER_SETS, build_labelled
from gapless.data.pairs import FileSource
from gapless.data.shards import ShardSource
from gapless.errors import ConfigError, DataError
from gapless.eval.arithmetic import evaluate_emoji_arithmetic, evaluate_simat
from gapless.eval.choices import evaluate_selection, evaluate_vqa, load_aokvqa, load_sugarcrepe, load_winoground
from gapless.eval.features import Autocast
from gapless.eval.grouping import intra_modal_retrieval, joint_clustering, mixed_recall
from gapless.eval.interpolate import set_between
from gapless.eval.noise import choice_noise, class_noise
from gapless.eval.pairs import build_pair_evaluation
from gapless.eval.results import Result, save_result
from gapless.eval.retrieval import recall_at, retrieval_ranks
from gapless.eval.suite import EmbeddedPairs, Suite
from gapless.geometry import Transform, whole_gap
from gapless.models import ClipModel, LoadedModel, Tokenizer, TwinModel

logger = logging.getLogger(__name__)


def evaluate(
    loaded: LoadedModel, plan: EvalPlan, cache_folder: Path | None = None, run: Path | None = None
) -> list[Result]:
    """Score a model at everything a plan names.

    Args:
        loaded: the model.
        plan: data sets and settings.
        cache_folder: where image features are kept; None keeps none.
        run: folder of the model's run, for its own validation set.

    Raises:
        ConfigError: an unknown data set or a setting out of range.
        DataError: data that are missing or cannot be used.
    """
    Accelerator()  # joins the processes, which PartialState alone would not do on CPUs
    if plan.batch_size < 1:
        raise ConfigError(f"--batch_size: {plan.batch_size} does not work, it must be at least 1")
    if plan.draws < 1:
        raise ConfigError(f"--draws: {plan.draws} does not work, it must be at least 1")
    if plan.captions not in ("all", "first"):
        raise ConfigError(f"--captions: {plan.captions!r} is not one of all, first")
    if isinstance(loaded.model, TwinModel) and loaded.model.towers != "image-text" and plan.datasets != ["val"]:
        raise ConfigError(f"--datasets: {loaded.name} has {loaded.model.towers} towers, it can be scored on val only")
    suite = Suite(
        loaded,
        cache_folder,
        plan.precision,
        plan.batch_size,
        plan.workers,
        plan.max_bad_fraction,
        _transform(loaded, plan),
    )
    names = [each for name in plan.datasets for each in (PAPER_SETS if name == "paper" else (name,))]
    return [result for name in names for result in _evaluate(suite, name, plan, run)]


def _transform(loaded: LoadedModel, plan: EvalPlan) -> Transform | None:
    """The plan's map, or the one that the export carries."""
    carried = Path(loaded.pretrained) / "transform.safetensors"
    path = plan.transform or (carried if loaded.pretrained and carried.is_file() else None)
    if path is None:
        return None
    if "val" in plan.datasets:
        raise ConfigError(f"--transform: not with val, which repeats the run's own evaluation ({path})")
    transform = Transform.load(path)
    logger.info("embeddings are moved by %s (%s)", path, transform.method)
    return transform


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


def _evaluate(suite: Suite, name: str, plan: EvalPlan, run: Path | None) -> list[Result]:
    logger.info("%s on %s", suite.loaded.name, name)
    split = plan.split or "test"
    if name == "emoji":
        return _emoji(suite, plan, split)
    if name == "val":
        return [_own_validation(suite, run)]
    if name == "pairs":
        source = build_source(plan.data, plan.split or "val")
        embedded = suite.embed(plan.data.source, source, plan.captions)
        return score_pairs(suite, plan.data.source, embedded, plan)
    if name in RETRIEVAL_SETS:
        pairs = FileSource(read_retrieval(name, _folder(plan, name), split))
        return score_pairs(suite, name, suite.embed(name, pairs, plan.captions), plan)
    if name in ("simat", "aokvqa", "winoground") or name.startswith(("sugar_crepe/", "wds/")):
        folder = _folder(plan, name)
        if name == "simat":
            return [evaluate_simat(suite, folder, plan.lambdas, "test" if plan.split == "test" else "dev", plan.heads)]
        if name == "aokvqa":
            questions = load_aokvqa(folder / "aokvqa_v1p0_val.json", folder / "val2017")
            found = [evaluate_vqa(suite, questions)]
            if "robustness" in plan.tasks:
                found.append(choice_noise(suite, questions, name, plan.noise, plan.draws))
            return found
        if name == "winoground":
            return [evaluate_selection(suite, load_winoground(folder / "examples.jsonl", folder / "images"), name)]
        if name.startswith("sugar_crepe/"):
            annotations = folder / f"{name.partition('/')[2]}.json"
            return [evaluate_selection(suite, load_sugarcrepe(annotations, folder / "val2017"), name)]
        if shards_type(folder) == "retrieval":
            source = ShardSource(shard_paths(folder, split))
            return score_pairs(suite, name, suite.embed(name, source, plan.captions), plan)
    return _classification(suite, name, plan, split)


def _folder(plan: EvalPlan, name: str) -> Path:
    if plan.root is None:
        raise ConfigError(f"--root: {name} needs the folder where it lies, for example --root=/data/{{dataset}}")
    return place_of(plan.root, name)


def _emoji(suite: Suite, plan: EvalPlan, split: str) -> list[Result]:
    embedded = suite.embed("emoji", build_source(DataConfig(), split), plan.captions)
    groups = emoji_classes()["emoji_group"].labels
    labels = torch.tensor([groups.get(key, -1) for key in embedded.keys])
    found = score_pairs(suite, "emoji", embedded, plan, labels)
    for task in emoji_classes():
        found += _classification(suite, task, plan, split)
    if "arithmetic" in plan.tasks:
        found.append(evaluate_emoji_arithmetic(suite, plan.lambdas, "test" if split == "test" else "dev"))
    return found


def _classification(suite: Suite, name: str, plan: EvalPlan, split: str) -> list[Result]:
    data, found = build_labelled(name, plan.root, split, plan.download, plan.prompts), []
    if "zero_shot" in plan.tasks:
        found.append(suite.zero_shot(data))
    if "robustness" in plan.tasks:
        found.append(class_noise(suite, data, plan.noise, plan.draws))
    if "linear_probe" in plan.tasks:
        found.append(suite.linear_probe(build_labelled(name, plan.root, "train", plan.download), data))
    if "intra_modal" in plan.tasks:
        images = suite.labelled(data)
        metrics = {f"image_{k}": v for k, v in intra_modal_retrieval(images.features, images.labels).items()}
        found.append(suite.result(name, "intra_modal_retrieval", metrics, images))
    return found


def score_pairs(
    suite: Suite, name: str, embedded: EmbeddedPairs, plan: EvalPlan, labels: torch.Tensor | None = None
) -> list[Result]:
    """Everything that a plan asks of pairs.

    Args:
        suite: the model.
        name: of the data set.
        embedded: its features.
        plan: whose tasks are scored.
        labels: class of each image for joint clustering, -1 for none; None where there are no classes.
    """
    images, firsts, found = embedded.images, embedded.firsts, []
    if "retrieval" in plan.tasks:
        image_ranks, text_ranks = _ranks_in_folds(embedded, plan.folds)
        counts = {"num_images": float(len(images.features)), "num_texts": float(len(embedded.texts))}
        first = {"image_retrieval_recall@1": image_ranks < 1, "text_retrieval_recall@1": text_ranks < 1}
        task = "zeroshot_retrieval" if plan.captions == "all" else "zeroshot_retrieval_first_caption"
        metrics = recall_at(image_ranks, text_ranks) | counts
        found.append(suite.result(name, task, metrics, images, {k: v.float() for k, v in first.items()}))
        found[0].num_bad += embedded.without_caption
    if "gap" in plan.tasks and len(firsts) >= 5:
        found.append(suite.result(name, "gap", whole_gap(images.features, firsts), images))
    if "mixed" in plan.tasks:
        found.append(suite.result(name, "mixed_modality_retrieval", mixed_recall(images.features, firsts), images))
    if "intra_modal" in plan.tasks:
        metrics = {f"text_{k}": v for k, v in intra_modal_retrieval(embedded.texts, embedded.owner).items()}
        found.append(suite.result(name, "intra_modal_retrieval", metrics, images))
    if "clustering" in plan.tasks and labels is not None:
        known = labels >= 0
        metrics = joint_clustering(images.features[known], firsts[known], labels[known])
        found.append(suite.result(name, "joint_clustering", metrics, images))
    return found


def _ranks_in_folds(embedded: EmbeddedPairs, folds: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ranks of every text and image among those of its fold."""
    images, n = embedded.images.features, len(embedded.images.features)
    if not 1 <= folds <= n:
        raise ConfigError(f"--folds: {folds} does not work, it must be between 1 and the {n} images")
    found = []
    for k in range(folds):
        first, end = n * k // folds, n * (k + 1) // folds
        texts = (embedded.owner >= first) & (embedded.owner < end)
        found.append(retrieval_ranks(images[first:end], embedded.texts[texts], embedded.owner[texts] - first))
    return torch.cat([image for image, _ in found]), torch.cat([text for _, text in found])


def _own_validation(suite: Suite, run: Path | None) -> Result:
    """The very evaluation that the run did while it trained."""
    if run is None or not (run / "config.yaml").is_file():
        raise DataError("--datasets: val needs a run's folder with its config.yaml")
    config = load_config(run / "config.yaml")
    evaluation = build_pair_evaluation(config, suite.loaded.model, suite.loaded.tokenizer)
    scores = evaluation.run(suite.model)
    number = int(scores["val/num_samples"])
    return Result("val", "pairs", scores, suite.loaded.name, suite.loaded.pretrained, num_samples=number)


def evaluate_between(
    base: LoadedModel, tuned: LoadedModel, alphas: Sequence[float], plan: EvalPlan
) -> dict[str, list[Result]]:
    """Results of the models between a base and a fine-tuned one, by ``alpha=...``; no features are kept."""
    ends = base.model.clip.state_dict(), {n: t.clone() for n, t in tuned.model.clip.state_dict().items()}
    found = {}
    for alpha in alphas:
        set_between(tuned.model, *ends, alpha)
        between = LoadedModel(tuned.model, tuned.tokenizer, f"{tuned.name}@{alpha:g}", tuned.pretrained)
        found[f"alpha={alpha:g}"] = evaluate(between, plan)
    return found


def save_all(results: Sequence[Result], folder: Path) -> None:
    """Write results; on the main process only."""
    if PartialState().is_main_process:
        for result in results:
            save_result(result, folder)
