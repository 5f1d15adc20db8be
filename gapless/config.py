"""The whole configuration as one tree of dataclasses: what a YAML file or a ``--a.b=value`` can say.

Only ``build_*`` functions and the command line read these; everything below them takes plain arguments.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar

from jsonargparse import ArgumentParser

from gapless.arguments import (
    AtLeastTwo,
    ClosedUnitInterval,
    FiniteNumber,
    FractionAboveZero,
    FractionBelowOne,
    Location,
    NonNegativeInteger,
    NonNegativeNumber,
    OpenUnitInterval,
    PositiveInteger,
    PositiveNumber,
    Seed,
    Separator,
    UpToHalf,
)
from gapless.errors import ConfigError
from gapless.parsing import check_tree, parse_arguments

Flat = dict[str, Any]
EvalTask = Literal[
    "zero_shot", "retrieval", "gap", "arithmetic", "linear_probe", "intra_modal", "mixed", "clustering", "robustness"
]
_Ends = TypedDict("_Ends", {"from": FiniteNumber, "to": FiniteNumber})


class Ramp(_Ends, total=False):
    """A number that changes during the run, ``{from: 0, to: 1, start: 0.2, end: 1000, shape: linear}``.

    ``from`` holds until ``start`` (0) and ``to`` from ``end`` on (1). Either is a fraction of the run up to 1, and a
    step above it. ``shape`` is linear or cosine.
    """

    start: NonNegativeNumber
    end: PositiveNumber
    shape: Literal["linear", "cosine"]


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

    source: Literal["emoji", "coco", "shards", "folder", "csv"] = "emoji"
    """Where pairs come from; emoji is embedded and needs no files."""
    path: Location | None = None
    """Root folder (coco, folder), csv file, or shards: folder, brace range, URL, or several joined by '::'."""
    val_path: Location | None = None
    """Validation data of the same kind (shards, folder, csv); null holds out val_fraction of path."""
    val_fraction: OpenUnitInterval = 0.1
    """Share of pairs held out, by a hash of their key, where there is neither an own split nor val_path."""
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
    """The other picture of a pair where model.towers is image-image: the same one, or OpenMoji's drawing of the same
    concept (emoji only, needs the extra openmoji)."""
    mismatched: ClosedUnitInterval = 0.0
    """Share of the training pairs whose captions are exchanged among each other, a control."""
    captions: str = "first"
    """Caption of a training pair: first or random (of those not blank), index:K, or all (one pair for each)."""
    val_captions: str = "first"
    """Caption of a validation pair: first (that is not blank) or index:K."""
    train_samples: AtLeastTwo | None = None
    """Use only this many training pairs, a random subset fixed by the seed; null for all."""
    val_samples: AtLeastTwo | None = None
    """Use only the first so many validation pairs; null for all."""
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
    """Stop when more than this share of the samples seen could not be used."""
    timeout: PositiveNumber = 60.0
    """Seconds that a server of remote shards, or the command of a 'pipe:' address, may be silent; then its shard counts
    as lost."""
    allow_pipe: bool = False
    """Allow 'pipe:' shard addresses, which run shell commands."""


@dataclass
class ModelConfig:
    """Which CLIP, from where, and which parts of it are trained."""

    name: Location = "ViT-B-32-quickgelu"
    """open_clip model name, 'local-dir:FOLDER', 'hf-hub:ORG/REPO', or 'custom' with architecture."""
    pretrained: Location | None = None
    """open_clip pretrained tag or weights file (safetensors, torch.save, OpenAI's); null starts from scratch, or from
    the folder's weights. none starts from scratch without the base weights of a text tower of transformers, too."""
    architecture: dict[str, Any] | None = None
    """open_clip model_cfg (embed_dim, vision_cfg, text_cfg, quick_gelu) when name is custom."""
    embed_dim: PositiveInteger | None = None
    """Dimension of the shared space. With weights, both projections are re-initialised; null keeps them."""
    towers: Literal["image-text", "image-image", "text-text"] = "image-text"
    """What the two towers encode. image-image and text-text are the identical-encoder ablations: two towers of one
    architecture with different seeds, and pairs of the same image or caption twice."""
    shared_tower: bool = False
    """One tower for both sides of image-image or text-text."""
    initial_gap: Literal["keep", "procrustes", "translate"] = "keep"
    """What is done, once and before training, about the gap between the towers: an orthogonal map of the second
    tower's features onto the first's, or a shift by the difference of their means."""
    temperature: PositiveNumber | Ramp | None = None
    """Softmax temperature, 1 / logit_scale; null keeps the model's own. A schedule {from: 0.01, to: 0.05, end: 1}
    (start, end: fraction of the run up to 1, a step above; shape: linear or cosine) needs it not to be learnable."""
    learnable_temperature: bool = True
    """Learn the temperature, logit_scale clamped to [1, 100]."""
    temperature_form: Literal["exp", "softplus"] = "exp"
    """Function of the learned number that gives logit_scale; softplus changes it more slowly where it is large."""
    lock_image: bool = False
    """Freeze the image tower."""
    lock_image_unlocked_groups: NonNegativeInteger = 0
    """Groups at the end of a locked image tower that stay trainable."""
    lock_text: bool = False
    """Freeze the text tower."""
    lock_text_unlocked_groups: NonNegativeInteger = 0
    """Groups at the end of a locked text tower that stay trainable."""
    grad_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""

    @property
    def is_twin(self) -> bool:
        """Whether this is two bare towers, and so no CLIP that open_clip loads."""
        return self.towers != "image-text" or self.initial_gap != "keep"


@dataclass
class LossConfig:
    """The objective: a weighted sum of terms over the global batch."""

    preset: Literal["clip", "cua", "cuaxu", "siglip", "none"] = "clip"
    """clip; cua = clip + uniform + align; cuaxu = cua + cross_uniform; siglip (its paper starts at
    model.temperature=0.1); none starts empty."""
    terms: dict[str, FiniteNumber | Ramp] = field(default_factory=dict)
    """Weights by term over the preset: clip, uniform, cross_uniform, align, centroid, centroid_uniform, cross_attract,
    siglip, siglip_relative, simclr, cyclip, cyclip_in_modal, cyclip_cross_modal, koleo, package.module:function.
    A weight may be a schedule, as model.temperature."""
    uniform_t: PositiveNumber = 2.0
    """t of exp(-t |x - y|^2) in the uniformity terms."""
    align_alpha: PositiveNumber = 2.0
    """Power of the distance in align."""
    hardness: NonNegativeNumber = 0.0
    """How much clip's negatives are weighted by how hard they are; 0 not at all."""
    duplicates: Literal["ignore", "mask"] = "ignore"
    """Whether pairs of a batch with the same image or caption repel each other (ignore, the papers) or not (mask)."""
    implementation: Literal["auto", "plain", "tiled"] = "auto"
    """plain: N x N matrices. tiled: memory grows with N, and processes share the work. auto: by size."""


@dataclass
class OptimConfig:
    """AdamW, its schedule, clipping and averaging."""

    lr: NonNegativeNumber = 5e-4
    """Peak learning rate."""
    temperature_lr: NonNegativeNumber = 1.0
    """Learning rate of the temperature, as a multiple of lr."""
    betas: tuple[FractionBelowOne, FractionBelowOne] = (0.9, 0.98)
    """Decay rates of AdamW's moments."""
    eps: PositiveNumber = 1e-6
    """AdamW's epsilon."""
    weight_decay: NonNegativeNumber = 0.2
    """Weight decay."""
    decay_all: bool = False
    """Also decay biases, norms and the temperature (as the contrastive-gap paper does)."""
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """Learning rate after the warm-up; cosine and linear end at zero."""
    warmup_steps: NonNegativeInteger = 0
    """Steps of linear warm-up, counted in optimiser steps whatever the number of processes."""
    grad_clip: PositiveNumber | None = None
    """Largest gradient norm; null for no clipping."""
    ema_decay: OpenUnitInterval | None = None
    """Decay of an exponential moving average of the weights, used in evaluation and export; null for none."""


@dataclass
class TrainConfig:
    """Length, precision and memory of the training loop."""

    epochs: PositiveInteger = 9
    """Passes over the training pairs."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Mixed precision; auto takes what accelerate was launched with."""
    micro_batch_size: PositiveInteger | None = None
    """Pairs of one forward pass in a process; the contrastive batch stays whole. Null for one pass."""
    compile: bool = False
    """Compile the towers with torch.compile; pays off after some hundred steps."""
    log_every: PositiveInteger = 10
    """Steps between two logged training lines; the values are those of that step."""
    timeout: PositiveNumber = 600
    """Seconds in which every process must take part in what all do together, a download by one of them included; then
    the run ends with exit code 5. A process that is stopped or hangs is found so."""


@dataclass
class EvalConfig:
    """Evaluation before the first step and between epochs, over the whole validation set."""

    every_epochs: PositiveInteger = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    split: Literal["val", "train", "test"] = "val"
    """Pairs that are evaluated; train for experiments that ask what the training pairs came to."""
    keep_embeddings: list[int] = field(default_factory=lambda: [0, -1])
    """Epochs after which the evaluated embeddings are kept in RUN/embeddings, 0 before the first step, -1 the last;
    each takes 8 bytes times pairs times dimensions. Reports draw maps from them."""
    batch_size: PositiveInteger = 256
    """Pairs of one forward pass in a process."""
    zero_shot: bool = True
    """Classify validation images where the source has classes (emoji)."""
    datasets: list[str] = field(default_factory=list)
    """Further data sets to score each time, named as for gapless eval: cifar10, wds/NAME, simat ..."""
    root: Location | None = None
    """Folder of those; {dataset} in it becomes the name, with - for /."""


@dataclass
class CheckpointConfig:
    """What is saved so that an interrupted run continues exactly."""

    every_steps: PositiveInteger | None = None
    """Steps between checkpoints; null for none."""
    every_minutes: PositiveNumber | None = 15.0
    """Minutes between checkpoints; null for none."""
    every_epochs: PositiveInteger = 1
    """Epochs between checkpoints; the end of the run is always saved."""
    keep_last: PositiveInteger = 2
    """Newest checkpoints kept; the best one is kept beside them."""
    best_metric: str = "val/image_retrieval_recall@1"
    """Logged metric that names the best checkpoint."""
    best_mode: Literal["max", "min"] = "max"
    """Whether the best is the largest or the smallest."""


@dataclass
class TrackingConfig:
    """Trackers beside metrics.jsonl, which is always written."""

    to: list[Literal["wandb", "tensorboard"]] = field(default_factory=list)
    """Any of wandb, tensorboard."""
    project: str = "gapless"
    """wandb project."""
    tags: list[str] = field(default_factory=list)
    """wandb tags."""


@dataclass
class Config:
    """One training run."""

    name: str = "run"
    """Folder of the run under output; {hash} becomes eight characters of the config, for sweeps."""
    output: Location = "runs"
    """Folder of all runs."""
    seed: Seed = 42
    """Seed of initialisation, shuffling and augmentation."""
    data: DataConfig = field(default_factory=DataConfig)
    """Pairs of images and captions, and how they become batches."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Which CLIP, from where, and which parts of it are trained."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The objective: a weighted sum of terms over the global batch."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """AdamW, its schedule, clipping and averaging."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Length, precision and memory of the training loop."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Evaluation before the first step and between epochs."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """What is saved so that an interrupted run continues exactly."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Trackers beside metrics.jsonl."""


@dataclass
class EvalPlan:
    """What a model is scored at, and how."""

    datasets: list[str] = field(default_factory=lambda: ["emoji"])
    """emoji, val (a run's own validation set), pairs (--data), simat, aokvqa, winoground, sugar_crepe/NAME,
    imagefolder, wds/NAME, paper (the contrastive-gap paper's five), or any data set of clip_benchmark."""
    tasks: list[EvalTask] = field(default_factory=lambda: ["zero_shot", "retrieval", "gap", "arithmetic"])
    """What is scored where a data set allows it; besides those: linear_probe, intra_modal (retrieval of images among
    images and texts among texts), mixed (retrieval among images and texts), clustering (of both together), robustness
    (of classes and choices to noise and other words, with the gap open and closed)."""
    root: Location | None = None
    """Folder of the data sets; {dataset} in it becomes the name, with - for /."""
    split: str | None = None
    """Split to score; null takes test, and val of --data."""
    data: DataConfig = field(default_factory=DataConfig)
    """The pairs that the data set named pairs stands for."""
    captions: Literal["all", "first"] = "all"
    """Captions of an image in retrieval: all (any may be found) or first (the contrastive-gap paper's protocol)."""
    folds: PositiveInteger = 1
    """Parts that retrieval is scored on one by one and averaged: 5 for COCO's 1K protocol, in the order of the data."""
    prompts: Literal["own", "fahim2024"] = "own"
    """Class names of zero-shot: own, or as the contrastive-gap paper's code wrote them (ImageNet's synonyms as tuples,
    'photo of' before those of dtd and caltech101), for comparison with its numbers only."""
    lambdas: list[FiniteNumber] = field(default_factory=lambda: [1.0])
    """Strengths of the edits in simat and emoji arithmetic."""
    noise: NonNegativeNumber = 0.025
    """Deviation of a component of the Gaussian noise of robustness."""
    draws: PositiveInteger = 100
    """Draws of that noise, and of other words for the choices of aokvqa (each embeds all of them anew)."""
    heads: Path | None = None
    """Linear heads for simat, safetensors with image.weight, image.bias, text.weight, text.bias."""
    transform: Path | None = None
    """Map of gapless close that moves images and texts (then of length 1 again) before they are scored; null takes
    transform.safetensors of the export folder, if it carries one."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the forward passes."""
    batch_size: PositiveInteger = 256
    """Images or texts of one forward pass in a process."""
    workers: NonNegativeInteger = 2
    """Loader processes of each process."""
    max_bad_fraction: ClosedUnitInterval = 0.01
    """Stop when more than this share of a data set's images cannot be used."""
    download: bool = False
    """Let torchvision fetch data sets that are missing."""


Tree = TypeVar("Tree")


@cache
def parser_of(kind: Any) -> ArgumentParser:
    """What reads a dataclass from files (``--config``) and from arguments (``--a.b=value``)."""
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(kind, None)
    return parser


def load_config(*paths: Path) -> Config:
    """The training run that YAML files, laid over each other in order, ask for.

    Raises:
        ConfigError: an unknown key, a wrong type, or a value out of its range.
    """
    return load_tree(Config, *paths)


def load_tree(kind: type[Tree], *paths: Path) -> Tree:
    """The same for any dataclass."""
    return read_arguments(kind, [f"--config={path}" for path in paths])


def read_arguments(kind: type[Tree], arguments: Sequence[str]) -> Tree:
    """A dataclass from arguments as they are typed: ``--config`` and ``--a.b=value``.

    Raises:
        ConfigError: an unknown key, a wrong type, or a value out of its range.
    """
    values = vars(parse_arguments(parser_of(kind), arguments))  # type: ignore[arg-type]  # it is hashable
    return kind(**{k: v for k, v in values.items() if k != "config"})


def check_types(config: Any) -> None:
    """Raise ConfigError with the first key of a dataclass whose value is not of its type, or out of its range."""
    check_tree(parser_of(type(config)), asdict(config))  # type: ignore[arg-type]  # it is hashable


def config_file(name: str) -> Path:
    """A file of configs/, in a checkout or as installed.

    Raises:
        ConfigError: there is none of that name.
    """
    roots = [Path(__file__).parents[1] / "configs", Path(sys.prefix) / "share" / "gapless" / "configs"]
    for root in roots:
        if (root / name).is_file():
            return root / name
    raise ConfigError(f"{name} is neither under {roots[0]} nor under {roots[1]}")


def with_changes(config: Config, **changes: Any) -> Config:
    """A copy with some fields replaced; ``data={"batch_size": 8}`` replaces inside a part."""
    parts = {k: replace(getattr(config, k), **v) if isinstance(v, dict) else v for k, v in changes.items()}
    return replace(config, **parts)


def flatten(tree: Flat, prefix: str = "") -> Flat:
    """``{"a": {"b": 1}}`` to ``{"a.b": 1}``; lists and empty dicts are values."""
    flat: Flat = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def config_hash(config: Any) -> str:
    """Eight characters that two configs share only if they ask for the same run (its name and folder aside)."""
    tree = asdict(config)
    del tree["name"], tree["output"]
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:8]
