"""A run of milliseconds, of one small matrix, whose numbers can be worked out by hand; the loop's every wire shows."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gapless.config import CheckpointConfig, OptimConfig, TrackingConfig, TrainConfig
from gapless.data.samples import BadSample
from gapless.engine.checkpoint import Checkpoints
from gapless.engine.parts import Parts
from gapless.engine.run import carry_out, prepare
from gapless.engine.tracking import Tracker
from gapless.errors import StoppedError

MODEL = "model.safetensors"
STEPS_PER_EPOCH = 3


@dataclass
class TaskConfig:
    """What every run has in its configuration, as this one sets it."""

    name: str = "task"
    output: str = "runs"
    seed: int = 5
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            lr=0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.3, temperature_lr=0.5, warmup_steps=2, grad_clip=0.5
        )
    )
    train: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=2, log_every=1))
    checkpoint: CheckpointConfig = field(
        default_factory=lambda: CheckpointConfig(every_minutes=None, best_metric="val/score", best_mode="max")
    )
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


@dataclass
class Points:
    """A process's part of a batch."""

    x: Tensor
    bad: list[BadSample] = field(default_factory=list)
    converted: dict[str, int] = field(default_factory=dict)
    first_cut: str = ""

    @property
    def rows(self) -> int:
        return len(self.x)


def points(step: int, rows: int = 4) -> Tensor:
    """The rows of a step; no two steps have the same."""
    return torch.tensor([[1.0 + k, 0.5 * step - k] for k in range(rows)])


@dataclass
class Batches:
    """Batches of four rows, unless a step has its own."""

    special: dict[int, Points] = field(default_factory=dict)
    drawn: list[int] = field(default_factory=list)
    """Steps whose batches were asked for."""
    asked: list[tuple[int, int]] = field(default_factory=list)
    num_samples: int = 12
    steps_per_epoch: int = STEPS_PER_EPOCH

    def batches(self, start: int, stop: int) -> Iterator[Points]:
        self.asked.append((start, stop))
        for step in range(start, stop):
            self.drawn.append(step)
            yield self.special.get(step, Points(points(step)))


class Model(nn.Module):
    """A matrix that is decayed, and a temperature that is not and learns at a rate of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, -2.0]]))
        self.logit_scale = nn.Parameter(torch.tensor(0.5))
        self.fixed = nn.Parameter(torch.tensor([7.0]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T * self.logit_scale + self.fixed


def loss_of(output: Tensor) -> Tensor:
    return output.square().mean() / 100


@dataclass
class Step:
    """Leaves the gradients of :func:`loss_of`, and notes what it was called with."""

    model: nn.Module
    accelerator: Accelerator
    calls: list[tuple[Tensor, list[int], int]] = field(default_factory=list)
    before: Callable[[int], None] = lambda step: None

    def __call__(self, batch: Points, sizes: Sequence[int], step: int) -> dict[str, Tensor]:
        self.calls.append((batch.x, list(sizes), step))
        self.before(step)
        loss = loss_of(self.model(batch.x))
        self.accelerator.backward(loss)
        return {"loss": loss.detach(), "number": torch.tensor(float(step))}


@dataclass
class Evaluation:
    """Values that are given, and the weight that was evaluated."""

    scores: Sequence[float]
    """One for each evaluation."""
    weights: list[float] = field(default_factory=list)
    polls: Callable[[], bool] = lambda: False
    """Whether to ask the loop if it is to stop."""

    def run(
        self, model: nn.Module, autocast: Callable[[], AbstractContextManager[None]], poll: Callable[[], None]
    ) -> dict[str, float]:
        assert isinstance(model, Model)  # nothing is wrapped around it
        with autocast():
            self.weights.append(float(model.weight[0, 0].detach()))
        if self.polls():
            poll()
        return {"val/score": self.scores[len(self.weights) - 1], "val/weight": self.weights[-1]}


@dataclass
class Task:
    """A run, and everything that it was made of."""

    config: TaskConfig
    batches: Batches = field(default_factory=Batches)
    scores: Sequence[float] = (0.0, 3.0, 1.0)
    changes: dict[str, Any] = field(default_factory=dict)
    """Of the loop's parts."""
    with_parts: Callable[[Parts], None] = lambda parts: None
    """Called before the loop begins."""

    def carry_out(self, **options: Any) -> Path:
        return carry_out(self.config, self.build, **options)

    @property
    def weight(self) -> float:
        """The first number of the matrix, as it is now."""
        return float(self.parts.model.weight[0, 0].detach())

    def build(self, accelerator, folder, checkpoint, progress, stop) -> Parts:
        model = Model()
        if checkpoint:
            model.load_state_dict(load_file(checkpoint / MODEL))
        prepared, optimizer, average = prepare(accelerator, model, self.config, checkpoint, progress, lambda m: m)
        weights = accelerator.unwrap_model(prepared)
        self.evaluation = Evaluation(self.scores)
        self.step = Step(prepared, accelerator)
        self.accelerator = accelerator
        checkpoints = Checkpoints(
            folder / "checkpoints",
            accelerator,
            self.config.checkpoint.keep_last,
            weights,
            lambda place, tensors: _write(place / MODEL, tensors),
        )
        parts = Parts(
            config=self.config,
            accelerator=accelerator,
            model=prepared,
            optimizer=optimizer,
            step=self.step,
            data=self.batches,
            evaluations=[self.evaluation],
            checkpoints=checkpoints,
            tracker=Tracker(folder, accelerator),
            average=average,
            stop=stop,
            progress=progress,
        )
        self.parts = replace(parts, **self.changes)
        self.with_parts(self.parts)
        return self.parts


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


def task(folder: Path, scores: Sequence[float] = (0.0, 3.0, 1.0), **changes: Any) -> Task:
    """A task whose configuration differs in some keys; ``train__epochs=3`` changes train.epochs."""
    config = TaskConfig(output=str(folder))
    for key, value in changes.items():
        part, _, last = key.rpartition("__")
        if part:
            value, last = replace(getattr(config, part), **{last: value}), part
        config = replace(config, **{last: value})
    return Task(config, scores=scores)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def state(folder: Path, checkpoint: str = "latest") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "checkpoints" / checkpoint / "state.json").read_text())
    return found


def checkpoints(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "checkpoints").iterdir())


def by_hand(config, steps, decay=None):
    """The same run as one plain loop in float64: losses, norms, weights and averages after each step."""
    w, s = torch.tensor([[1.0, -2.0]], dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    moments = [[torch.zeros_like(p), torch.zeros_like(p)] for p in (w, s)]
    average, losses, norms, weights, averages = w.clone(), [], [], [], []
    o = config.optim
    for step in range(steps):
        w.requires_grad_(), s.requires_grad_()
        loss = loss_of(points(step).double() @ w.T * s + 7)
        gradients = torch.autograd.grad(loss, [w, s])
        w, s = w.detach(), s.detach()
        norm = float(torch.sqrt(sum(g.square().sum() for g in gradients)))
        lr = o.lr * min(1.0, (step + 1) / o.warmup_steps)
        if step >= o.warmup_steps:
            lr = o.lr * (1 + math.cos(math.pi * (step - o.warmup_steps) / (steps - o.warmup_steps))) / 2
        new = []
        for p, g, m, rate, wd in zip((w, s), gradients, moments, (lr, 0.5 * lr), (o.weight_decay, 0.0), strict=True):
            g = g * min(1.0, o.grad_clip / (norm + 1e-6))
            m[0] = o.betas[0] * m[0] + (1 - o.betas[0]) * g
            m[1] = o.betas[1] * m[1] + (1 - o.betas[1]) * g * g
            one, two = (m[k] / (1 - o.betas[k] ** (step + 1)) for k in (0, 1))
            new.append(p * (1 - rate * wd) - rate * one / (two.sqrt() + o.eps))
        w, s = new
        past = min(decay or 0, (1 + step) / (10 + step))
        average = past * average + (1 - past) * w
        losses.append(float(loss.detach()))
        norms.append(norm)
        weights.append(float(w[0, 0]))
        averages.append(float(average[0, 0]))
    return losses, norms, weights, averages


def interrupted(made, at):
    """Stops the run by a signal's flag before a step takes its batch."""

    first = made.with_parts

    def stop(parts):
        first(parts)
        draw = made.batches.batches

        def batches(start, end):
            for batch, step in zip(draw(start, end), range(start, end), strict=True):
                parts.stop.is_set = step == at
                yield batch

        made.batches.batches = batches

    made.with_parts = stop
    with pytest.raises(StoppedError) as stopped:
        made.carry_out()
    return str(stopped.value)
