"""What a YAML file can say of a captioner and its training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gapless.config import CheckpointConfig, OptimConfig, TrackingConfig, TrainConfig, check_types
from gapless.config.arguments import (
    AtLeastTwo,
    FiniteNumber,
    FractionAboveZero,
    Location,
    NonNegativeNumber,
    PositiveInteger,
    Seed,
    VocabularySize,
)
from gapless.config.rules import Rule, refuse


@dataclass
class FeaturesConfig:
    """Which embeddings and captions are learned from."""

    path: Location = ""
    """Folder of embeddings, written by gapless caption embed or by your own code (docs/caption.md)."""
    modality: str = "text"
    """Modality to learn from: text reconstructs texts and opens no other file, image learns from pairs."""
    fraction: FractionAboveZero = 1.0
    """Share of the ids to learn from, at least one id: a random subset fixed by the seed."""
    batch_size: PositiveInteger = 40
    """Captions in a global batch, over all processes together."""
    max_tokens: AtLeastTwo = 40
    """Largest number of tokens of a caption; longer captions are cut, and counted."""


@dataclass
class PrepareConfig:
    """Collapse and corrupt (connect-collapse-corrupt, Algorithm 1)."""

    collapse: bool = True
    """Subtract the training mean of each modality."""
    noise: NonNegativeNumber = 0.1265
    """Standard deviation of each component of the Gaussian noise in training; 0 for none."""
    span_of: tuple[str, str] | None = None
    """Two modalities, such as [image, text], along whose difference of means there is no noise. Null adds noise in all
    directions."""
    renormalise: bool = True
    """Give vectors length 1 again at the end, as the paper's code does and its text does not say."""


@dataclass
class DecoderConfig:
    """The mapper and the language model."""

    start: Location | None = None
    """Run or export of a captioner to continue from, with its mapper, tokens and architecture. The keys below are then
    not used, except frozen."""
    name: Location | None = None
    """GPT-2 of Hugging Face, by name or folder; null starts from scratch."""
    architecture: dict[str, int | FiniteNumber] = field(
        default_factory=lambda: {"n_layer": 4, "n_head": 4, "n_embd": 128}
    )
    """Sizes of a GPT-2 from scratch; attn_pdrop, embd_pdrop and resid_pdrop may stand beside them."""
    vocab_size: VocabularySize = 1500
    """Byte-pair tokens that a GPT-2 from scratch learns from the training captions."""
    mapper: Literal["mlp", "transformer"] = "mlp"
    """Network that turns an embedding into a prefix: one hidden layer (mlp), or a transformer over learned positions
    (ClipCap)."""
    prefix_length: PositiveInteger = 10
    """Number of embeddings in the prefix."""
    frozen: bool = False
    """Train the mapper alone, and leave the language model as it is."""


@dataclass
class CaptionEvalConfig:
    """Evaluation between epochs."""

    every_epochs: PositiveInteger = 1
    """Epochs between evaluations on the val split of the training modality, without noise."""
    batch_size: PositiveInteger = 256
    """Captions of one forward pass in a process."""


@dataclass
class CaptionConfig:
    """One training run of a captioner."""

    name: str = "caption"
    """Folder of the run under output; {hash} becomes eight characters of the configuration, for sweeps."""
    output: Location = "runs"
    """Folder of all runs."""
    seed: Seed = 42
    """Seed of initialisation, shuffling and noise."""
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    """Which embeddings and captions are learned from."""
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    """Collapse and corrupt."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """The mapper and the language model."""
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=2e-5, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, schedule="linear")
    )
    """AdamW, its schedule, clipping and averaging."""
    train: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=10))
    """Length, precision and memory of the training loop."""
    eval: CaptionEvalConfig = field(default_factory=CaptionEvalConfig)
    """Evaluation between epochs."""
    checkpoint: CheckpointConfig = field(
        default_factory=lambda: CheckpointConfig(best_metric="val/loss", best_mode="min")
    )
    """What is saved so that an interrupted run continues exactly."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Trackers beside metrics.jsonl."""


def check_caption_config(config: CaptionConfig) -> None:
    """Raise ConfigError with the first key whose value cannot work."""
    c = config
    check_types(config)
    span = c.prepare.span_of
    rules: list[Rule] = [
        ("features.path", bool(c.features.path), "the folder of embeddings"),
        (
            "features.max_tokens",
            c.features.max_tokens <= 10_000,
            "at most 10,000 positions of the decoder",
        ),
        ("optim.temperature_lr", c.optim.temperature_lr == 1.0, "1.0, since a captioner has no temperature"),
        ("prepare.span_of", span is None or span[0] != span[1], "two different modalities, or null"),
    ]
    refuse(config, rules)
