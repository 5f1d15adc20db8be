"""The training loop. It knows no task: a step function leaves gradients and named losses, evaluations give numbers."""

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Sequence
from typing import NoReturn

import torch
from torch import Tensor

from gapless.data.images import CONVERTED, LONG_CAPTION, SKIPPED
from gapless.engine.meters import Clock, progress_bar
from gapless.engine.optim import WeightAverage, all_finite, learning_rate
from gapless.engine.parts import Parts, TrainBatch
from gapless.engine.processes import exchange
from gapless.errors import ConfigError, DataError, NonFiniteError, StoppedError, waiting_for

logger = logging.getLogger(__name__)

COUNTED = [f"skipped_{reason}" for reason in SKIPPED] + [f"converted_{reason}" for reason in CONVERTED]
NAMED_BAD_SAMPLES = 5
"""Bad samples that are named in the log; the rest is only counted."""
MAX_SKIPPED_STEPS = 20
"""fp16 steps in a row that the gradient scaler may skip."""


class Loop:
    """Trains from ``parts.progress`` to the end.

    Args:
        parts: what it works with.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.last_saved = (parts.progress.step or -1, time.monotonic())
        """Step and time of the last checkpoint."""
        self.save_due: Sequence[int] = (0,)
        """Whether each process's clock asked for a checkpoint before this step."""
        self.skipped_steps = 0
        """fp16 steps that the gradient scaler skipped in a row."""

    def run(self) -> None:
        """Train.

        Raises:
            StoppedError: a signal came; everything is saved.
            NonFiniteError: a loss or gradient is not finite; the last checkpoint is whole.
            DataError: too many bad samples.
        """
        progress = self.parts.progress
        batches = iter(self.parts.data.batches(progress.step, self.parts.total))
        clock = Clock()
        with progress_bar(self.parts.total, progress.step, self.parts.accelerator.is_main_process) as advance:
            while True:
                if progress.step % self.parts.data.steps_per_epoch == 0:
                    with waiting_for(f"checkpoint and evaluation after step {progress.step}"):
                        self._at_epoch_boundary()
                    clock = Clock()
                if progress.step == self.parts.total:
                    return
                with waiting_for(f"step {progress.step + 1} of {self.parts.total}"):
                    batch = clock.waiting(batches)
                    sizes = self._agree(batch)
                    values = self._update(batch, sizes) if sum(sizes) >= self.parts.least_rows else None
                if values is not None:
                    progress.samples += sum(sizes)
                    clock.samples += sum(sizes)
                    if (progress.step + 1) % self.parts.config.train.log_every == 0:
                        self._log_step(values | clock.rates())
                        clock = Clock()
                    advance(
                        progress.step + 1, progress.step // self.parts.data.steps_per_epoch + 1, values["train/loss"]
                    )
                progress.step += 1
                if self._due():
                    with waiting_for(f"checkpoint of step {progress.step}"):
                        self._save()

    def _update(self, batch: TrainBatch, sizes: Sequence[int]) -> dict[str, float]:
        """One optimiser step; the values to log, before the step."""
        optim = self.parts.config.optim
        lr = learning_rate(optim, self.parts.progress.step, self.parts.total)
        for group in self.parts.optimizer.param_groups:
            group["lr"] = lr * group["lr_factor"]
        self.parts.optimizer.zero_grad()
        named = self.parts.step(batch, sizes, self.parts.progress.step)
        losses = dict(zip(named, torch.stack(list(named.values())).tolist(), strict=True))  # one wait for the device
        wrong = [name for name, value in losses.items() if not math.isfinite(value)]
        if wrong:
            raise NonFiniteError(
                f"step {self.parts.progress.step + 1}: {', '.join(wrong)} is not finite; the weights were not changed"
            )
        with self.parts.around_step():
            norm = self.parts.accelerator.clip_grad_norm_(self.parts.model.parameters(), optim.grad_clip or math.inf)
            norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
            if not math.isfinite(norm):
                self._on_bad_gradient()
            else:
                self.skipped_steps = 0
            self.parts.optimizer.step()
        if self.parts.average:
            self.parts.average.update(self.parts.progress.step)
        refuse_non_finite(self.parts.progress.step + 1, trained_tensors(self.parts))
        return {f"train/{name}": value for name, value in losses.items()} | {"train/lr": lr, "train/grad_norm": norm}

    def _on_bad_gradient(self) -> None:
        """fp16 gradients overflow now and then, and the scaler skips that step; anything else is the end."""
        self.skipped_steps += 1
        if self.parts.accelerator.scaler is not None and self.skipped_steps < MAX_SKIPPED_STEPS:
            return
        named = self.parts.checkpoints.weights.named_parameters()
        wrong = next(
            (n for n, p in named if p.grad is not None and not bool(p.grad.isfinite().all())), "the total norm"
        )
        raise NonFiniteError(
            f"step {self.parts.progress.step + 1}: the gradient of {wrong} is not finite; the weights were not changed "
            f"(lower optim.lr, set optim.grad_clip, or train.precision=bf16)"
        )

    def _agree(self, batch: TrainBatch) -> list[int]:
        """Exchange what every process must know before a step: rows, whether to stop or save, and bad samples.

        Returns:
            rows of each process.
        """
        counts = dict.fromkeys(COUNTED, 0)
        for sample in batch.bad:
            counts[f"skipped_{sample.reason}"] += 1
        for reason, number in batch.converted.items():
            counts[f"converted_{reason}"] += number
        states = exchange(
            [batch.rows, self.parts.stop.is_set, self._clock_says_save, *counts.values()], self.parts.accelerator.device
        )
        rows, stops, self.save_due, *totals = ([process[k] for process in states] for k in range(3 + len(counts)))
        if any(stops):
            self._stop()  # before anything is counted: the resumed run draws this batch again
        self._count_bad(batch, dict(zip(COUNTED, map(sum, totals), strict=True)))
        return rows

    def _count_bad(self, batch: TrainBatch, counts: dict[str, int]) -> None:
        progress, limit = self.parts.progress, self.parts.max_bad_fraction
        if progress.step % self.parts.data.steps_per_epoch == 0:
            progress.bad_in_epoch = 0
        seen = sum(number for name, number in progress.counts.items() if name.startswith("skipped_"))
        for sample in batch.bad[: max(0, NAMED_BAD_SAMPLES - seen)]:
            logger.warning("left out %s: %s", sample.key, sample.detail)
        if batch.first_cut and f"converted_{LONG_CAPTION}" not in progress.counts:
            logger.warning("captions that are longer than the model's context are cut, first: %s", batch.first_cut)
        for name, number in counts.items():
            if number:
                progress.counts[name] = progress.counts.get(name, 0) + number
        progress.bad_in_epoch += sum(number for name, number in counts.items() if name.startswith("skipped_"))
        if progress.bad_in_epoch > limit * self.parts.data.num_samples:
            first = f"; the last: {batch.bad[-1].key} ({batch.bad[-1].detail})" if batch.bad else ""
            raise DataError(
                f"{progress.bad_in_epoch} bad samples in an epoch of {self.parts.data.num_samples}, more than "
                f"data.max_bad_fraction={limit}: {progress.counts}{first}"
            )

    def _poll(self) -> None:
        """Stop, all together, if any process got a signal."""
        if any(flag for (flag,) in exchange([self.parts.stop.is_set], self.parts.accelerator.device)):
            self._stop()

    def _stop(self) -> NoReturn:
        """Save, unless this step is saved, and end the run."""
        if self.last_saved[0] != self.parts.progress.step and self.parts.progress.step:
            self._save()
        raise StoppedError(
            f"stopped by a signal at step {self.parts.progress.step} of {self.parts.total}; the same command resumes"
        )

    def _at_epoch_boundary(self) -> None:
        """Save, then evaluate: a run killed in the evaluation begins with it again."""
        progress, config = self.parts.progress, self.parts.config
        epoch = progress.step // self.parts.data.steps_per_epoch
        last = progress.step == self.parts.total
        keep = epoch in self.parts.kept_epochs or (last and -1 in self.parts.kept_epochs)
        evaluate = last or keep or epoch % self.parts.evaluate_every == 0
        if (
            progress.step
            and (evaluate or epoch % config.checkpoint.every_epochs == 0)
            and self.last_saved[0] != progress.step
        ):
            self._save()
        if not evaluate:
            return
        started = time.monotonic()
        values: dict[str, float] = {}
        with averaged(self.parts.average):
            for evaluation in self.parts.evaluations:
                # Unwrapped: DDP would broadcast buffers in each forward pass, and processes may have unequally many.
                model = self.parts.accelerator.unwrap_model(self.parts.model)
                try:
                    values |= evaluation.run(model, self.parts.accelerator.autocast, lambda: self._poll())
                except NonFiniteError as error:
                    raise NonFiniteError(f"evaluation after step {progress.step}: {error}") from None
        if keep:
            self.parts.keep_embeddings(epoch)
        values["val/seconds"] = round(time.monotonic() - started, 3)
        self.parts.tracker.log(progress.step, epoch, progress.samples, values)
        if self.parts.accelerator.is_main_process:
            logger.info("epoch %d of %d (step %d): %s", epoch, config.train.epochs, progress.step, summary(values))
        self._mark_best(values)

    def _mark_best(self, values: dict[str, float]) -> None:
        progress, config = self.parts.progress, self.parts.config.checkpoint
        if config.best_metric not in values:
            known = ", ".join(sorted(values))
            raise ConfigError(
                f"checkpoint.best_metric: {config.best_metric} is not among the evaluated metrics: {known}"
            )
        value, sign = values[config.best_metric], 1 if config.best_mode == "max" else -1
        criterion = f"{config.best_mode} {config.best_metric}"
        if progress.best_metric != criterion:
            if progress.best_metric:
                logger.info("best was the checkpoint with %s, from here on it has %s", progress.best_metric, criterion)
                progress.best = None
            progress.best_metric = criterion
        better = progress.best is None or sign * value > sign * progress.best
        if progress.step and better and math.isfinite(value):
            progress.best = value
            self.parts.checkpoints.mark_best(progress.step)

    def _log_step(self, values: dict[str, float]) -> None:
        """One training line."""
        step = self.parts.progress.step + 1
        counts = {f"data/{name}": float(number) for name, number in self.parts.progress.counts.items()}
        self.parts.tracker.log(
            step, step / self.parts.data.steps_per_epoch, self.parts.progress.samples, values | counts
        )

    def _save(self) -> None:
        """Write a checkpoint of this moment."""
        progress = self.parts.progress
        moments = [t for state in self.parts.optimizer.state.values() for name, t in state.items() if name != "step"]
        averages = list(self.parts.average.averages.values()) if self.parts.average else []
        refuse_non_finite(progress.step, [*trained_tensors(self.parts), *moments, *averages])
        progress.metrics_offset = self.parts.tracker.flush()
        if self.parts.accelerator.scaler is not None:
            progress.scaler = self.parts.accelerator.scaler.state_dict()
        self.parts.checkpoints.save(progress, self.parts.optimizer, self.parts.average)
        self.last_saved = (progress.step, time.monotonic())

    def _due(self) -> bool:
        """Whether the step or the clock (of the main process) asks for a checkpoint."""
        every = self.parts.config.checkpoint.every_steps
        if self.parts.progress.step % self.parts.data.steps_per_epoch == 0:
            return False  # the epoch's end has a rule of its own
        # The main process's clock counts, so that all processes save or none.
        return bool(every and self.parts.progress.step % every == 0) or bool(self.save_due[0])

    @property
    def _clock_says_save(self) -> bool:
        """Whether the last checkpoint is older than checkpoint.every_minutes."""
        minutes = self.parts.config.checkpoint.every_minutes
        return minutes is not None and time.monotonic() - self.last_saved[1] > 60 * minutes


def trained_tensors(parts: Parts) -> list[Tensor]:
    """The parameters that the optimiser changes."""
    return [p.detach() for group in parts.optimizer.param_groups for p in group["params"]]


def refuse_non_finite(step: int, tensors: Sequence[Tensor]) -> None:
    """End the run, before anything is written, if an update left NaN or infinity behind."""
    if tensors and not all_finite(tensors):
        raise NonFiniteError(
            f"step {step}: the update left weights that are not finite; nothing of it was saved "
            "(lower optim.lr or raise optim.eps)"
        )


@contextlib.contextmanager
def averaged(average: WeightAverage | None) -> Iterator[None]:
    """Within it the model has its averaged weights."""
    if average:
        average.swap()
    try:
        yield
    finally:
        if average:
            average.swap()


def summary(values: dict[str, float]) -> str:
    """The numbers that a reader of the log wants first."""
    shown = (
        "val/centroid_distance",
        "val/linear_separability",
        "val/image_retrieval_recall@1",
        "val/text_retrieval_recall@1",
        "val/loss",
    )
    return ", ".join(f"{name.removeprefix('val/')} {values[name]:.3f}" for name in shown if name in values)
