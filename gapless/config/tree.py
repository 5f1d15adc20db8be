"""The whole configuration of a training run as one tree of dataclasses: what a YAML file or ``--a.b=value`` can say.

These reach what builds, checks or runs something as a whole; losses, measures, and classes of data and models take
plain arguments.
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
    """Name of a model of open_clip, 'local-dir:FOLDER', 'hf-hub:ORG/REPO', or 'custom' with architecture."""
    pretrained: Location | None = None
    """Tag of open_clip or file of weights (safetensors, torch.save or OpenAI's). Null starts from scratch, or from the
    weights of the folder. The word none starts from scratch and also leaves out the base weights of a text tower of
    transformers."""
    architecture: dict[str, Any] | None = None
    """Sizes of a model named custom, as open_clip's model_cfg: embed_dim, vision_cfg, text_cfg, quick_gelu."""
    embed_dim: PositiveInteger | None = None
    """Dimension of the shared space, for which both projections of a pretrained model start anew; null keeps them."""
    towers: Literal["image-text", "image-image", "text-text"] = "image-text"
    """Inputs of the two towers. image-image and text-text are the identical-encoder ablations: two towers of one
    architecture and different seeds get the same image or caption."""
    shared_tower: bool = False
    """Use one tower for both sides of image-image or text-text."""
    initial_gap: Literal["keep", "procrustes", "translate"] = "keep"
    """Removal of the gap between the towers, once and before training. procrustes rotates the second tower's features
    onto the first's; translate shifts them by the difference of the means."""
    temperature: PositiveNumber | Ramp | None = None
    """Softmax temperature, 1 / logit_scale; null keeps the model's own. A schedule such as {from: 0.01, to: 0.05,
    start: 0, end: 1, shape: linear} is linear or cosine, and needs learnable_temperature=false. Its start and end
    are fractions of the run up to 1, and steps above."""
    learnable_temperature: bool = True
    """Learn the temperature, with logit_scale clamped to [1, 100]."""
    temperature_form: Literal["exp", "softplus"] = "exp"
    """Function that turns the learned number into logit_scale; softplus changes it more slowly where it is large."""
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
    """Terms to begin with: clip; cua = clip + uniform + align; cuaxu = cua + cross_uniform; siglip; or none. SigLIP's
    paper starts at model.temperature=0.1."""
    terms: dict[str, FiniteNumber | Ramp] = field(default_factory=dict)
    """Weights of terms, laid over the preset: clip, uniform, cross_uniform, align, centroid, centroid_uniform,
    cross_attract, siglip, siglip_relative, simclr, cyclip, cyclip_in_modal, cyclip_cross_modal, koleo,
    package.module:function. A weight may be a schedule, as model.temperature."""
    uniform_t: PositiveNumber = 2.0
    """Factor t of exp(-t |x - y|^2) in the uniformity terms."""
    align_alpha: PositiveNumber = 2.0
    """Power of the distance in the term align."""
    hardness: NonNegativeNumber = 0.0
    """Exponent with which clip weights negatives by their similarity, so that similar ones count more; 0 weights all
    alike."""
    duplicates: Literal["ignore", "mask"] = "ignore"
    """Whether pairs of a batch with the same image or caption repel each other (ignore, the papers) or not (mask)."""
    implementation: Literal["auto", "plain", "tiled"] = "auto"
    """Computation of the terms. plain holds N x N matrices; in tiled, memory grows with N and processes share the work;
    auto chooses by size."""


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
    """Course of the learning rate after the warm-up; cosine and linear end at zero."""
    warmup_steps: NonNegativeInteger = 0
    """Steps of linear warm-up, counted in steps of the optimiser whatever the number of processes."""
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
    """Mixed precision of training; auto takes the precision that accelerate was launched with."""
    micro_batch_size: PositiveInteger | None = None
    """Pairs of one forward pass in a process; null for one pass. The contrastive batch stays whole."""
    compile: bool = False
    """Compile the towers with torch.compile; pays off after some hundred steps."""
    log_every: PositiveInteger = 10
    """Steps between two training lines in the log; a line has the values of its own step."""
    timeout: PositiveNumber = 600
    """Seconds that processes wait for each other; then the run ends with exit code 5, as when one of them hangs. The
    time includes a download by one of them."""


@dataclass
class EvalConfig:
    """Evaluation before the first step and between epochs, over the whole validation set."""

    every_epochs: PositiveInteger = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    split: Literal["val", "train", "test"] = "val"
    """Pairs that are evaluated; train is for experiments on the training pairs themselves."""
    keep_embeddings: list[int] = field(default_factory=lambda: [0, -1])
    """Epochs after which the evaluated embeddings are kept in RUN/embeddings: 0 is before the first step, -1 the last.
    Each takes 8 bytes times pairs times dimensions. Reports draw maps from them."""
    batch_size: PositiveInteger = 256
    """Pairs of one forward pass in a process."""
    zero_shot: bool = True
    """Classify validation images, where the source has classes (emoji)."""
    datasets: list[str] = field(default_factory=list)
    """Further data sets to score each time, named as for gapless eval, such as cifar10, wds/NAME or simat."""
    root: Location | None = None
    """Folder of the further data sets; {dataset} in it becomes the name of each, with - for /."""


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
    """Number of newest checkpoints that are kept; the best one is kept beside them."""
    best_metric: str = "val/image_retrieval_recall@1"
    """Logged metric that decides which checkpoint is the best."""
    best_mode: Literal["max", "min"] = "max"
    """Whether the largest (max) or the smallest (min) value is the best."""


@dataclass
class TrackingConfig:
    """Trackers beside metrics.jsonl, which is always written."""

    to: list[Literal["wandb", "tensorboard"]] = field(default_factory=list)
    """Trackers that get the metrics too: any of wandb and tensorboard."""
    project: str = "gapless"
    """Project in wandb."""
    tags: list[str] = field(default_factory=list)
    """Tags in wandb."""


@dataclass
class Config:
    """One training run."""

    name: str = "run"
    """Folder of the run under output; {hash} becomes eight characters of the configuration, for sweeps."""
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
