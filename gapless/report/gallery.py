"""Embeddings as readers look at them: maps with pictures and captions, and examples of retrieval."""

import base64
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from gapless.config import load_config
from gapless.data import PairSource, build_source
from gapless.data.images import BadSampleError, decode_image
from gapless.data.labelled import MAX_PIXELS
from gapless.data.samples import pick_caption
from gapless.errors import DataError, GaplessError
from gapless.eval import Embeddings, load_pairs
from gapless.geometry.spectrum import principal_axes
from gapless.measures import measure_of
from gapless.report.runs import RunRecord

logger = logging.getLogger(__name__)

POINTS = 300
"""Pairs of a map."""
QUERIES = 6
TOP = 5
THUMBNAIL = 56
"""Largest side of a picture in pixels."""


@dataclass
class Gallery:
    """Pictures and captions of pairs, each stored once however often it is shown."""

    pictures: dict[str, str] = field(default_factory=dict)
    """Data addresses by ``data set/key``."""
    captions: dict[str, str] = field(default_factory=dict)
    sources: dict[str, tuple[PairSource, str] | None] = field(default_factory=dict)
    """Pairs and caption rule by the settings that choose them; None for data that are not here."""

    def add(self, run: RunRecord, position: int, key: str) -> str:
        """Its name in the gallery; without a picture if the data are not here."""
        name = f"{run.data}/{key}"
        if name in self.captions:
            return name
        self.captions[name] = key
        settings = str({k: v for k, v in run.config.items() if k.startswith("data.") or k in ("eval.split", "seed")})
        if settings not in self.sources:
            self.sources[settings] = _source(run)
        loaded = self.sources[settings]
        if loaded is not None and 0 <= position < len(loaded[0]) and loaded[0].key(position) == key:
            source, rule = loaded
            try:
                pair = source.load(position)
                self.captions[name] = pick_caption(pair, rule, "")
                self.pictures[name] = thumbnail(pair.image)
            except BadSampleError as error:
                logger.warning("%s: no picture of %s (%s)", run.folder, key, error)
        return name


def _source(run: RunRecord) -> tuple[PairSource, str] | None:
    try:
        config = load_config(run.folder / "config.yaml")
        return build_source(config.data, config.eval.split, config.seed), config.data.val_captions
    except (GaplessError, OSError) as error:
        logger.warning("%s: pictures are left out (%s)", run.folder, error)
        return None


def thumbnail(data: bytes) -> str:
    """A small picture as a data address; raises BadSampleError."""
    image = Image.fromarray(decode_image(data, MAX_PIXELS)[0].permute(1, 2, 0).numpy())
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclass
class Embedded:
    """The kept embeddings of a run."""

    run: RunRecord
    epochs: dict[int, Embeddings]

    @property
    def last(self) -> Embeddings:
        """Features of the last epoch that was kept."""
        return self.epochs[max(self.epochs)]


def load_embedded(run: RunRecord) -> Embedded | None:
    """The run's embeddings; None, and a note, where there are none that can be read."""
    try:
        epochs = {epoch: _usable(path, load_pairs(path)) for epoch, path in run.embeddings.items()}
    except DataError as error:
        logger.warning("%s", error)
        run.notes.append(str(error))
        return None
    return Embedded(run, epochs) if epochs else None


def _usable(path: Path, features: Embeddings) -> Embeddings:
    """Features that can be drawn.

    Raises:
        DataError: shapes or keys that do not go together, or values that are not finite.
    """
    image, text, keys = features.image, features.text, features.keys
    if image.ndim != 2 or 0 in image.shape or image.shape != text.shape or len(features.indices) != len(image):
        raise DataError(f"{path}: {tuple(image.shape)} images and {tuple(text.shape)} texts are no pairs")
    if not (image.isfinite().all() and text.isfinite().all()):
        raise DataError(f"{path}: embeddings that are not finite")
    if not isinstance(keys, list) or len(keys) not in (0, len(image)) or not all(isinstance(k, str) for k in keys):
        raise DataError(f"{path}: the keys of its pairs are not those of {len(image)} pairs")
    return features


def embedding_map(embedded: Embedded, gallery: Gallery) -> dict[str, Any]:
    """Points of some pairs at every kept epoch, on the principal components of the last one.

    In three dimensions the coordinates are the features themselves.
    """
    last = embedded.last
    both = torch.cat([last.image, last.text]).double()
    flat = last.image.shape[1] <= 3
    centre = torch.zeros(both.shape[1], dtype=torch.float64) if flat else both.mean(dim=0)
    axes = principal_axes(both)[1][:, :3]
    space = torch.eye(both.shape[1], 3, dtype=torch.float64) if flat else axes
    if axes.shape[1] < 3:
        axes = torch.cat([axes, axes.new_zeros(len(axes), 3 - axes.shape[1])], dim=1)
    chosen = torch.linspace(0, len(last.image) - 1, min(POINTS, len(last.image))).long()
    frames = []
    for epoch, features in sorted(embedded.epochs.items()):
        sides = [side[chosen].double() for side in (features.image, features.text)]
        frames.append(
            {
                "epoch": epoch,
                "plane": [_rounded(((s - both.mean(dim=0)) @ axes[:, :2]).T) for s in sides],
                "space": [_rounded(((s - centre) @ space).T) for s in sides],
                "scores": _scores(embedded.run, epoch),
            }
        )
    indices, keys = last.indices.tolist(), last.keys
    names = [gallery.add(embedded.run, indices[i], keys[i]) for i in chosen.tolist()] if keys else []
    return {"run": embedded.run.name, "sphere": flat, "points": names, "frames": frames}


def _rounded(values: Tensor) -> list[list[float]]:
    return [[round(v, 4) for v in row] for row in values.tolist()]


def _scores(run: RunRecord, epoch: int) -> str:
    """The scores of an epoch that a reader of the map wants."""
    shown = ("val/centroid_distance", "val/linear_separability", "val/text_retrieval_recall@1")
    values = {name: dict(run.curve(name)).get(epoch) for name in shown}
    return ", ".join(f"{measure_of(name).short} {value:.3f}" for name, value in values.items() if value is not None)


@dataclass
class Example:
    """A query and what it retrieves, best first; names are the gallery's."""

    query: str
    retrieved: list[str]
    right: int
    """Rank of the right one, counted from 1."""


def retrieval_examples(embedded: Embedded, gallery: Gallery, by_text: bool) -> list[Example]:
    """Some queries of a run's last kept epoch among all evaluated pairs: texts among images, or the reverse."""
    features = embedded.last
    if not features.keys:
        return []
    queries, targets = (features.text, features.image) if by_text else (features.image, features.text)
    indices = features.indices.tolist()

    def name(i: int) -> str:
        return gallery.add(embedded.run, indices[i], features.keys[i])

    chosen: Sequence[int] = torch.linspace(0, len(queries) - 1, min(QUERIES, len(queries)) + 2).long()[1:-1].tolist()
    examples = []
    for i in chosen:
        similarity = targets @ queries[i]
        best = similarity.topk(min(TOP, len(targets))).indices.tolist()
        examples.append(Example(name(i), [name(k) for k in best], 1 + int((similarity > similarity[i]).sum())))
    return examples
