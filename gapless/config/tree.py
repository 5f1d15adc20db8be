"""The whole configuration of a training run as one tree of dataclasses: what a YAML file or ``--a.b=value`` can say.

Only ``build_*`` functions and the command line read these; everything below them takes plain arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from gapless.config.arguments import (
    FiniteNumber,
    FractionBelowOne,
    Location,
    NonNegativeInteger,
    NonNegativeNumber,
    OpenUnitInterval,
    PositiveInteger,
    PositiveNumber,
    Seed,
)
from gapless.config.data import DataConfig

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
    """Weights by term over the preset: {terms}, package.module:function.
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
