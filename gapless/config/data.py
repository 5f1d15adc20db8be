"""Pairs of images and captions: the part of a configuration that training, evaluation and prepare share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gapless.config.arguments import (
    AtLeastTwo,
    ClosedUnitInterval,
    FractionAboveZero,
    Location,
    NonNegativeInteger,
    NonNegativeNumber,
    OpenUnitInterval,
    PositiveInteger,
    PositiveNumber,
    Separator,
    UpToHalf,
)
from gapless.config.sources import SourceName


@dataclass
class AugmentationConfig:
    """Random changes of training images, named as in open_clip's AugmentationCfg."""

    scale: tuple[FractionAboveZero, FractionAboveZero] = (0.9, 1.0)
    """Share of the image's area that the random crop keeps, lowest and highest."""
    ratio: tuple[PositiveNumber, PositiveNumber] = (0.75, 1.3333333333333333)
    """Aspect ratio of the random crop as a multiple of the model's own, lowest and highest."""
    color_jitter: tuple[NonNegativeNumber, NonNegativeNumber, NonNegativeNumber, UpToHalf] | None = None
    """Strength of brightness, contrast, saturation and hue jitter; null for none."""
    color_jitter_prob: ClosedUnitInterval = 0.8
    """Probability that the jitter is applied to an image."""
    gray_scale_prob: ClosedUnitInterval = 0.0
    """Probability that an image loses its colour."""
    re_prob: ClosedUnitInterval = 0.0
    """Probability that a random rectangle is erased."""
    re_count: PositiveInteger = 1
    """Number of rectangles that random erasing tries."""


@dataclass
class DataConfig:
    """Pairs of images and captions, and how they become batches."""

    source: SourceName = "emoji"
    """Where pairs come from; emoji is embedded and needs no files."""
    path: Location | None = None
    """Root folder (coco, folder), csv file, or shards: folder, brace range, URL, or several joined by '::'."""
    val_path: Location | None = None
    """Validation data of the same kind (shards, folder, csv); null holds out val_fraction of path."""
    val_fraction: OpenUnitInterval = 0.1
    """Share of pairs that is held out, by a hash of their key, without val_path and a split of the source's own."""
    karpathy: Location | None = None
    """Karpathy's dataset_coco.json for its split of COCO; null takes train2017 and val2017."""
    csv_image: str = "filepath"
    """Column with the image path, relative to the csv file."""
    csv_caption: str = "title"
    """Column with the caption; rows of one image are one pair with several captions."""
    csv_separator: Separator = ","
    """Column separator of the csv file."""
    json_caption: str = "caption"
    """Key of the caption, or of a list of them, in the .json members of shards that have no .txt (img2dataset)."""
    second_image: Literal["same", "openmoji"] = "same"
    """Other picture of a pair where model.towers is image-image: the same one, or OpenMoji's drawing of the concept.
    The drawing is for emoji only and needs the extra openmoji."""
    mismatched: ClosedUnitInterval = 0.0
    """Share of the training pairs whose captions are exchanged among each other, as a control."""
    captions: str = "first"
    """Caption of a training pair: first or random of those that are not blank, index:K, or all (one pair for each)."""
    val_captions: str = "first"
    """Caption of a validation pair: first (the first that is not blank) or index:K."""
    train_samples: AtLeastTwo | None = None
    """Use only this many training pairs, a random subset fixed by the seed; null for all."""
    val_samples: AtLeastTwo | None = None
    """Use only this many validation pairs, the first ones; null for all."""
    batch_size: AtLeastTwo = 64
    """Pairs in a global batch, over all processes together."""
    drop_last: bool = True
    """Drop the last, smaller batch of an epoch."""
    workers: NonNegativeInteger = 2
    """Loader processes for each training process; 0 decodes in the training process."""
    cache_images: bool = False
    """Keep decoded images in memory, for data sets of a few thousand small pictures."""
    shuffle_window: PositiveInteger = 16
    """Shards whose samples are shuffled together, so that reading stays local."""
    shuffle_buffer: NonNegativeInteger = 1000
    """Undecoded samples that a stream of shards shuffles together."""
    epoch_size: PositiveInteger | None = None
    """Pairs in an epoch of streamed shards; null reads shards.json or sizes.json beside them."""
    augmentation: AugmentationConfig | None = None
    """Augmentation of training images; null for none (the papers)."""
    max_pixels: PositiveInteger = 25_000_000
    """Images with more pixels in their header are skipped before decoding."""
    max_bad_fraction: ClosedUnitInterval = 0.01
    """Largest share of the samples seen that may be unusable before the run stops."""
    timeout: PositiveNumber = 60.0
    """Seconds that a server of remote shards, or the command of a 'pipe:' address, may be silent. Then its shard counts
    as lost."""
    allow_pipe: bool = False
    """Allow 'pipe:' shard addresses, which run shell commands."""
