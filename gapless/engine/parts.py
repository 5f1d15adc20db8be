"""What the training loop works with, whatever is trained."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from gapless.config import CheckpointConfig, OptimConfig, TrackingConfig, TrainConfig
from gapless.data.samples import BadSample
from gapless.engine.checkpoint import Checkpoints, Progress
from gapless.engine.optim import WeightAverage
from gapless.engine.tracking import Tracker
from gapless.signals import StopFlag


class RunConfig(Protocol):
    """What every kind of run has in its configuration."""

    name: str
    output: str
    seed: int
    optim: OptimConfig
    train: TrainConfig
    checkpoint: CheckpointConfig
    tracking: TrackingConfig


class TrainBatch(Protocol):
    """A process's part of a global batch."""

    @property
    def rows(self) -> int: ...
    @property
    def bad(self) -> list[BadSample]: ...
    @property
    def converted(self) -> dict[str, int]: ...

    @property
    def first_cut(self) -> str: ...


class TrainBatches(Protocol):
    """An endless sequence of global batches."""

    num_samples: int
    """Samples in an epoch, over all processes."""
    steps_per_epoch: int

    def batches(self, start: int, stop: int) -> Iterable[Any]:
        """This process's part of global batches start to stop - 1, each a TrainBatch."""


class Evaluation(Protocol):
    """Anything that gives numbers for a model."""

    def run(
        self,
        model: nn.Module,
        autocast: Callable[[], contextlib.AbstractContextManager[None]] = ...,
        poll: Callable[[], None] = ...,
    ) -> dict[str, float]: ...


@dataclass
class Parts:
    """What the loop works with."""

    config: RunConfig
    accelerator: Accelerator
    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: Callable[[Any, Sequence[int], int], dict[str, Tensor]]
    data: TrainBatches
    evaluations: Sequence[Evaluation]
    checkpoints: Checkpoints
    tracker: Tracker
    average: WeightAverage | None
    stop: StopFlag
    evaluate_every: int = 1
    """Epochs between evaluations."""
    kept_epochs: Sequence[int] = ()
    """Epochs after which ``keep_embeddings`` is called, -1 for the last."""
    keep_embeddings: Callable[[int], None] = lambda epoch: None
    """Stores what was evaluated after an epoch."""
    fingerprint: str = ""
    """Of the data, by which they are known wherever they lie."""
    max_bad_fraction: float = 0.0
    """More bad samples than this share of an epoch end the run."""
    least_rows: int = 1
    """Smaller batches are passed over."""
    around_step: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    """Within it the optimiser steps."""
    progress: Progress = field(default_factory=Progress)

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.config.train.epochs * self.data.steps_per_epoch
