"""A model with its optimiser, its average and its checkpoints, without a run around it."""

from pathlib import Path

from accelerate import Accelerator
from safetensors.torch import save_file

from gapless.engine.checkpoint import Checkpoints, Progress
from gapless.engine.optim import WeightAverage, build_optimizer
from tests.engine.tasks import MODEL, Model, TaskConfig, loss_of, points


class Saved:
    """A model with its optimiser and average, and its checkpoints."""

    def __init__(self, folder: Path, keep_last: int = 2) -> None:
        self.model, self.accelerator = Model(), Accelerator(cpu=True)
        self.optimizer = build_optimizer(self.model, TaskConfig().optim)
        self.average = WeightAverage(self.model.named_parameters(), 0.5)
        self.written = []

        def write(place, tensors):
            self.written.append((place.name, sorted(tensors)))
            save_file(tensors, place / MODEL)

        self.checkpoints = Checkpoints(folder, self.accelerator, keep_last, self.model, write)

    def train(self, step):
        self.optimizer.zero_grad()
        loss_of(self.model(points(step))).backward()
        self.optimizer.step()
        self.average.update(step)

    def save(self, step, average=True, **progress):
        self.train(step)
        self.checkpoints.save(Progress(step=step, **progress), self.optimizer, self.average if average else None)
