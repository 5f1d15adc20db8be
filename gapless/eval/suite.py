"""A model and everything it can be scored at: each image is embedded once, whatever number of tasks read it."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState
from torch import Tensor

from gapless.data import PairSource
from gapless.data.images import decode_image
from gapless.data.labelled import MAX_PIXELS, ImageFiles, LabelledImages, LabelledSet
from gapless.data.tokens import CaptionTokenizer
from gapless.data.transforms import build_eval_transform
from gapless.errors import DataError
from gapless.eval.cache import FeatureCache
from gapless.eval.features import Autocast, ImageFeatures, embed_classes, embed_images, embed_texts
from gapless.eval.results import Result
from gapless.eval.retrieval import recall_at, retrieval_ranks
from gapless.eval.zero_shot import class_gap, zero_shot_accuracy, zero_shot_hits
from gapless.geometry import gap_metrics
from gapless.models import LoadedModel

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class PairImages:
    """The images of pairs that have a caption, without classes."""

    source: PairSource
    indices: Sequence[int]
    told: str

    def __len__(self) -> int:
        return len(self.indices)

    def key(self, index: int) -> str:
        return self.source.key(self.indices[index])

    def load(self, index: int) -> tuple[Tensor, int]:
        return decode_image(self.source.load(self.indices[index]).image, MAX_PIXELS)[0], -1

    def stamp(self) -> str:
        return self.told + str([self.source.key(i) for i in self.indices])


class Suite:
    """Scores of one model.

    Args:
        loaded: the model.
        cache_folder: where image features are kept; None keeps none.
        precision: of the forward passes; scores are computed in fp32.
        batch_size: images or texts of one forward pass in a process.
        workers: loader processes of each process.
        max_bad_fraction: more unusable images than this share are an error.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        cache_folder: Path | None = None,
        precision: Precision = "fp32",
        batch_size: int = 256,
        workers: int = 2,
        max_bad_fraction: float = 0.01,
    ) -> None:
        self.loaded, self.model = loaded, loaded.model.to(PartialState().device).eval()
        self.tokenize = CaptionTokenizer(loaded.tokenizer, loaded.model.trims_captions)
        self.cache, self.precision = FeatureCache(cache_folder, loaded.model), precision
        self.batch_size, self.workers, self.max_bad_fraction = batch_size, workers, max_bad_fraction

    def zero_shot(self, data: LabelledSet) -> Result:
        """Zero-shot classification, and the gap between images and the prompts of their classes."""
        images = self._images(data.images, data.name)
        classes = embed_classes(self.model, self.tokenize, data.prompts, self._autocast(), self.batch_size)
        metrics = zero_shot_accuracy(images.features, classes, images.labels)
        metrics |= class_gap(images.features, classes, images.labels)
        hits = zero_shot_hits(images.features, classes, images.labels, (1,))
        return self.result(data.name, "zeroshot_classification", metrics, images, {"acc1": hits[1].float()})

    def pairs(self, name: str, source: PairSource, captions: str = "all", stamp: str = "") -> list[Result]:
        """Retrieval with several captions or one, and the gap between images and their first captions.

        Args:
            name: of the data set, in the results.
            source: the pairs.
            captions: all (an image finds any of its captions), or first (the contrastive-gap paper's protocol).
            stamp: what changes when the data do, for the cache.
        """
        texts_of = {i: [c for c in source.captions(i) if c.strip()] for i in range(len(source))}
        usable = [i for i, texts in texts_of.items() if texts]
        if not usable:
            raise DataError(f"{name}: no image has a caption")
        images = self._images(PairImages(source, usable, stamp), name)
        texts_of_image = [texts_of[usable[k]] for k in images.positions.tolist()]
        if captions == "first":
            texts_of_image = [texts[:1] for texts in texts_of_image]
        counts = torch.tensor([len(texts) for texts in texts_of_image])
        owner = torch.arange(len(counts)).repeat_interleave(counts)
        texts = embed_texts(
            self.model, self.tokenize, [t for ts in texts_of_image for t in ts], self.batch_size, self._autocast()
        )
        image_ranks, text_ranks = retrieval_ranks(images.features, texts, owner)
        metrics = recall_at(image_ranks, text_ranks) | {
            "num_images": float(len(counts)),
            "num_texts": float(len(texts)),
        }
        samples = {
            "image_retrieval_recall@1": (image_ranks < 1).float(),
            "text_retrieval_recall@1": (text_ranks < 1).float(),
        }
        task = "zeroshot_retrieval" if captions == "all" else "zeroshot_retrieval_first_caption"
        results = [self.result(name, task, metrics, images, samples)]
        if len(counts) >= 5:
            firsts = counts.cumsum(0) - counts
            gap = gap_metrics(images.features, texts[firsts])
            results.append(self.result(name, "gap", gap, images))
        results[0].num_bad += len(source) - len(usable)
        return results

    def images(self, paths: Sequence[Path], name: str) -> ImageFeatures:
        """Features of image files."""
        return self._images(ImageFiles(paths, [-1] * len(paths)), name)

    def words(self, words: Sequence[str]) -> dict[str, Tensor]:
        """Features of bare words."""
        return dict(
            zip(words, embed_texts(self.model, self.tokenize, words, self.batch_size, self._autocast()), strict=True)
        )

    def result(
        self,
        dataset: str,
        task: str,
        metrics: dict[str, float],
        images: ImageFeatures,
        samples: dict[str, Tensor] | None = None,
    ) -> Result:
        """A result of this model."""
        return Result(
            dataset,
            task,
            metrics,
            self.loaded.name,
            self.loaded.pretrained,
            num_samples=len(images.features),
            num_bad=len(images.bad),
            samples=samples or {},
        )

    def _images(self, images: LabelledImages, name: str) -> ImageFeatures:
        def compute() -> ImageFeatures:
            transform = build_eval_transform(self.loaded.model.preprocess)
            return embed_images(self.model, images, transform, self.batch_size, self.workers, self._autocast())

        found = self.cache.images(f"{name} {images.stamp()}", self.precision, compute)
        for sample in found.bad[:5]:
            logger.warning("%s: left out %s: %s", name, sample.key, sample.detail)
        if len(found.bad) > self.max_bad_fraction * len(images):
            raise DataError(
                f"{name}: {len(found.bad)} of {len(images)} images cannot be used, more than --max_bad_fraction="
                f"{self.max_bad_fraction}; first: {found.bad[0].key} ({found.bad[0].detail})"
            )
        return found

    def _autocast(self) -> Autocast:
        if self.precision == "fp32":
            return nullcontext
        return partial(torch.autocast, PartialState().device.type, torch.bfloat16)
