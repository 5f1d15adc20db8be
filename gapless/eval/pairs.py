"""Evaluation on pairs: gap metrics, retrieval and zero-shot classification from one pass over a data set."""

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn

from gapless.config import Config
from gapless.data import Place
from gapless.data.emoji import ClassSet, emoji_classes
from gapless.data.loader import EvalData, build_eval_data
from gapless.data.samples import describe_bad
from gapless.data.tokens import CaptionTokenizer
from gapless.errors import DataError
from gapless.eval.embeddings import Embeddings
from gapless.eval.features import Autocast, embed_classes, embed_pairs
from gapless.eval.metrics.retrieval import retrieval_recall
from gapless.eval.metrics.zero_shot import zero_shot_accuracy
from gapless.geometry import gap_metrics
from gapless.models import ClipModel, Tokenizer

logger = logging.getLogger(__name__)


def build_pair_evaluation(
    config: Config, model: ClipModel, tokenizer: Tokenizer, split: str | None = None, prefix: str = "val"
) -> "PairEvaluation":
    """The evaluation that a run does while it trains.

    Args:
        config: of the run.
        model: for its preprocessing.
        tokenizer: the model's.
        split: of the data; None for eval.split.
        prefix: of the pair metrics' names.
    """
    towers = config.model.towers
    data = build_eval_data(
        config.data,
        config.eval.batch_size,
        model.preprocess,
        CaptionTokenizer(tokenizer, model.trims_captions),
        Place.here(),
        split or config.eval.split,
        config.seed,
        towers,
    )
    has_classes = config.eval.zero_shot and config.data.source == "emoji" and towers == "image-text"
    return PairEvaluation(data, tokenizer, emoji_classes() if has_classes else {}, prefix, config.data.max_bad_fraction)


class PairEvaluation:
    """Embeds a data set once and scores it.

    Args:
        data: batches of this process; every pair once.
        tokenizer: the model's, for class prompts.
        classes: zero-shot tasks by name; the labels of keys that the data set has are used.
        prefix: of the pair metrics' names.
        max_bad_fraction: more bad samples than this share are an error.
    """

    def __init__(
        self,
        data: EvalData,
        tokenizer: Tokenizer,
        classes: Mapping[str, ClassSet] | None = None,
        prefix: str = "val",
        max_bad_fraction: float = 0.01,
    ) -> None:
        self.data, self.tokenizer, self.classes = data, tokenizer, dict(classes or {})
        self.prefix, self.max_bad_fraction = prefix, max_bad_fraction
        self.features: Embeddings | None = None
        """What :meth:`run` embedded last."""

    def run(
        self, model: nn.Module, autocast: Autocast = nullcontext, poll: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """All metrics, the same on every process.

        ``<prefix>/`` and the names of gap_metrics and retrieval_recall, ``<prefix>/num_samples``, ``<task>/acc1`` ...

        Raises:
            DataError: too few usable pairs or too many bad ones.
        """
        self.features = embed_pairs(model, self.data, autocast, poll)
        return self.score(model, self.features, autocast)

    def score(self, model: nn.Module, features: Embeddings, autocast: Autocast = nullcontext) -> dict[str, float]:
        """The metrics of :meth:`run` for features that are there already."""
        self._check(features)
        directions = {
            n: embed_classes(model, self.tokenizer, list(c.prompts.values()), autocast) for n, c in self.classes.items()
        }
        scores: dict[str, float] = {}
        if PartialState().is_main_process:
            pairs = gap_metrics(features.image, features.text) | retrieval_recall(features.image, features.text)
            pairs["num_samples"] = len(features.image)
            scores = {f"{self.prefix}/{name}": value for name, value in pairs.items()}
            for name, directions_of in directions.items():
                scores |= {f"{name}/{k}": v for k, v in self._classify(name, features, directions_of).items()}
        received: list[dict[str, float]] = broadcast_object_list([scores])
        return received[0]

    def _classify(self, name: str, features: Embeddings, directions: torch.Tensor) -> dict[str, float]:
        labels = torch.tensor([self.classes[name].labels.get(key, -1) for key in features.keys])
        known = labels >= 0
        return zero_shot_accuracy(features.image[known], directions, labels[known]) if known.any() else {}

    def _check(self, features: Embeddings) -> None:
        n, bad = len(features.image), len(features.bad)
        if bad:
            logger.warning("%s: left out of %d samples: %s", self.prefix, n + bad, describe_bad(features.bad))
        if bad > self.max_bad_fraction * (n + bad):
            raise DataError(
                f"{self.prefix}: {bad} of {n + bad} samples cannot be used, more than data.max_bad_fraction="
                f"{self.max_bad_fraction}; {describe_bad(features.bad)}"
            )
        if n < 5:
            raise DataError(f"{self.prefix}: gap metrics need at least 5 pairs, there are {n}")
