"""A model and everything it can be scored at: each image is embedded once, whatever number of tasks read it."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState
from torch import Tensor

from gapless.data import PairSource
from gapless.data.images import decode_image
from gapless.data.labelled import MAX_PIXELS, ImageFiles, LabelledImages, LabelledSet
from gapless.data.samples import describe_bad, spoken
from gapless.data.tokens import CaptionTokenizer
from gapless.data.transforms import build_eval_transform
from gapless.errors import DataError
from gapless.eval.cache import FeatureCache
from gapless.eval.embeddings import Embeddings, rows_of_groups
from gapless.eval.features import Autocast, embed_images, embed_prompts, embed_texts
from gapless.eval.metrics.probe import fit_linear_probe, probe_scores
from gapless.eval.metrics.zero_shot import (
    class_baselines,
    class_directions,
    class_gap,
    logit_accuracy,
    zero_shot_accuracy,
    zero_shot_hits,
)
from gapless.eval.results import Result, digest_of
from gapless.geometry import Transform
from gapless.models import LoadedModel

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class PairImages:
    """The images of pairs that have a caption, without classes."""

    source: PairSource
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def key(self, index: int) -> str:
        return self.source.key(self.indices[index])

    def load(self, index: int) -> tuple[Tensor, int]:
        return decode_image(self.source.load(self.indices[index]).image, MAX_PIXELS)[0], -1

    def stamp(self) -> str:
        return f"{list(self.indices)} of {self.source.stamp()}"


class Suite:
    """Scores of one model.

    Args:
        loaded: the model.
        cache_folder: where image features are kept; None keeps none.
        precision: of the forward passes; scores are computed in fp32.
        batch_size: images or texts of one forward pass in a process.
        workers: loader processes of each process.
        max_bad_fraction: more unusable images than this share are an error.
        transform: moves images, texts and class directions, which then have length 1 again; None leaves them.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        cache_folder: Path | None = None,
        precision: Precision = "fp32",
        batch_size: int = 256,
        workers: int = 2,
        max_bad_fraction: float = 0.01,
        transform: Transform | None = None,
    ) -> None:
        self.transform = transform or Transform("none")
        self.loaded, self.model = loaded, loaded.model.to(PartialState().device).eval()
        self.tokenize = CaptionTokenizer(loaded.tokenizer, loaded.model.trims_captions)
        self.cache, self.precision = FeatureCache(cache_folder, loaded.model), precision
        self.batch_size, self.workers, self.max_bad_fraction = batch_size, workers, max_bad_fraction

    def zero_shot(self, data: LabelledSet) -> Result:
        """Zero-shot classification, and the gap between images and the prompts of their classes."""
        embedded = self.labelled(data)
        classes, _ = self.classes(data)
        metrics = zero_shot_accuracy(embedded.image, classes, embedded.labels)
        metrics |= class_baselines(embedded.labels, len(classes)) | class_gap(embedded.image, classes, embedded.labels)
        hits = zero_shot_hits(embedded.image, classes, embedded.labels, (1,))
        groups = rows_of_groups(embedded.keys, data.groups)
        return self.result(
            data.name,
            "zeroshot_classification",
            metrics,
            embedded,
            {"acc1": hits[1].float()},
            {"acc1": groups},
        )

    def linear_probe(self, train: LabelledSet, test: LabelledSet, weight_decay: float = 1e-3) -> Result:
        """Accuracy of a linear classifier on the features, fitted on one split and scored on another."""
        fit, scored = self._images(train.images, f"{train.name} train"), self._images(test.images, test.name)
        device = PartialState().device
        weights = fit_linear_probe(
            fit.image.to(device), fit.labels.to(device), len(test.class_names), weight_decay
        ).cpu()
        logits = probe_scores(weights, scored.image)
        scores = logit_accuracy(logits, scored.labels)
        samples = {"lp_acc1": (logits.argmax(dim=1) == scored.labels).float()}
        metrics = {f"lp_{name}": value for name, value in scores.items()}
        metrics |= class_baselines(scored.labels, len(test.class_names))
        groups = {"lp_acc1": rows_of_groups(scored.keys, test.groups)}
        return self.result(test.name, "linear_probe", metrics, scored, samples, groups)

    def classes(self, data: LabelledSet) -> tuple[Tensor, list[Tensor]]:
        """Directions of classes (C, D), and the features of the prompts of each, (P, D).

        A direction is the mean of the prompts as the model embeds them, normalised, and then moved by the transform.
        """
        prompts = embed_prompts(self.model, self.tokenize, data.prompts, self.autocast, self.batch_size)
        directions = self.transform.text(class_directions(prompts), renormalise=True)
        return directions, [self.transform.text(features, renormalise=True) for features in prompts]

    def embed(self, name: str, source: PairSource, captions: str = "all") -> Embeddings:
        """Features of a data set of pairs; images without a caption are left out and counted.

        Args:
            name: of the data set, in messages.
            source: the pairs.
            captions: all, or first.
        """
        texts_of = {i: spoken(source.captions(i)) for i in range(len(source))}
        usable = [i for i, texts in texts_of.items() if texts]
        if not usable:
            raise DataError(f"{name}: no image has a caption")
        images = self._images(PairImages(source, usable), name)
        indices = torch.tensor(usable)[images.indices]
        kept = [texts_of[i][:1] if captions == "first" else texts_of[i] for i in indices.tolist()]
        flat = [text for texts in kept for text in texts]
        return replace(
            images,
            text=self._texts(flat),
            indices=indices,
            labels=images.labels[:0],
            captions=flat,
            image_of_text=torch.arange(len(kept)).repeat_interleave(torch.tensor([len(texts) for texts in kept])),
            without_caption=len(source) - len(usable),
            sample_set=digest_of(images.sample_set, kept),
        )

    def labelled(self, data: LabelledSet) -> Embeddings:
        """Features and classes of a classification data set."""
        return self._images(data.images, data.name)

    def images(self, paths: Sequence[Path], name: str) -> Embeddings:
        """Features of image files."""
        return self._images(ImageFiles(paths, [-1] * len(paths)), name)

    def words(self, texts: Iterable[str]) -> dict[str, Tensor]:
        """Features of texts, each embedded once and as it is."""
        different = sorted(set(texts))
        return dict(zip(different, self._texts(different), strict=True))

    def result(
        self,
        dataset: str,
        task: str,
        metrics: dict[str, float],
        embedded: Embeddings,
        samples: dict[str, Tensor] | None = None,
        groups: Mapping[str, Tensor] | None = None,
    ) -> Result:
        """A result of this model; groups in which every sample is alone are left out."""
        return Result(
            dataset,
            task,
            metrics,
            self.loaded.name,
            self.loaded.pretrained,
            num_samples=len(embedded.image),
            num_bad=len(embedded.bad),
            samples=samples or {},
            groups={name: rows for name, rows in (groups or {}).items() if len(torch.unique(rows)) < len(rows)},
            sample_set=embedded.sample_set,
        )

    def _texts(self, texts: Sequence[str]) -> Tensor:
        features = embed_texts(self.model, self.tokenize, texts, self.batch_size, self.autocast)
        return self.transform.text(features, renormalise=True)

    def _images(self, images: LabelledImages, name: str) -> Embeddings:
        def compute() -> Embeddings:
            transform = build_eval_transform(self.loaded.model.preprocess)
            return embed_images(self.model, images, transform, self.batch_size, self.workers, self.autocast)

        embedded = self.cache.images(f"{name} {images.stamp()}", self.precision, compute)
        for sample in embedded.bad[:5]:
            logger.warning("%s: left out %s: %s", name, sample.key, sample.detail)
        if len(embedded.bad) > self.max_bad_fraction * len(images):
            raise DataError(
                f"{name}: {len(embedded.bad)} of {len(images)} images cannot be used, more than max_bad_fraction="
                f"{self.max_bad_fraction}; {describe_bad(embedded.bad)}"
            )
        keys = [images.key(i) for i in embedded.indices.tolist()]
        used = list(zip(keys, embedded.labels.tolist(), strict=True))
        moved = self.transform.image(embedded.image, renormalise=True)
        return replace(embedded, image=moved, keys=keys, sample_set=digest_of(used))

    @property
    def autocast(self) -> Autocast:
        """Makes the context of a forward pass in this precision."""
        if self.precision == "fp32":
            return nullcontext
        return partial(torch.autocast, PartialState().device.type, torch.bfloat16)
