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


def fit(parts: Parts) -> None:
    """Train from ``parts.progress`` to the end.

    Raises:
        StoppedError: a signal came; everything is saved.
        NonFiniteError: a loss or gradient is not finite; the last checkpoint is whole.
        DataError: too many bad samples.
    """
    progress = parts.progress
    resumed_at = progress.step if progress.step else -1
    parts.last_saved = (resumed_at, time.monotonic())
    batches = iter(parts.data.batches(progress.step, parts.total))
    clock = Clock()
    with progress_bar(parts.total, progress.step, parts.accelerator.is_main_process) as advance:
        while True:
            if progress.step % parts.data.steps_per_epoch == 0:
                with waiting_for(f"checkpoint and evaluation after step {progress.step}"):
                    at_epoch_boundary(parts)
                clock = Clock()
            if progress.step == parts.total:
                return
            with waiting_for(f"step {progress.step + 1} of {parts.total}"):
                batch = clock.waiting(batches)
                sizes = agree(parts, batch)
                values = update(parts, batch, sizes) if sum(sizes) >= parts.least_rows else None
            if values is not None:
                progress.samples += sum(sizes)
                clock.samples += sum(sizes)
                if (progress.step + 1) % parts.config.train.log_every == 0:
                    log_step(parts, values | clock.rates())
                    clock = Clock()
                advance(progress.step + 1, progress.step // parts.data.steps_per_epoch + 1, values["train/loss"])
            progress.step += 1
            if _due(parts):
                with waiting_for(f"checkpoint of step {progress.step}"):
                    save(parts)


def update(parts: Parts, batch: TrainBatch, sizes: Sequence[int]) -> dict[str, float]:
    """One optimiser step; the values to log, before the step."""
    optim = parts.config.optim
    lr = learning_rate(optim, parts.progress.step, parts.total)
    for group in parts.optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
    parts.optimizer.zero_grad()
    named = parts.step(batch, sizes, parts.progress.step)
    losses = dict(zip(named, torch.stack(list(named.values())).tolist(), strict=True))  # one wait for the device
    wrong = [name for name, value in losses.items() if not math.isfinite(value)]
    if wrong:
        raise NonFiniteError(
            f"step {parts.progress.step + 1}: {', '.join(wrong)} is not finite; the weights were not changed"
        )
    with parts.around_step():
        norm = parts.accelerator.clip_grad_norm_(parts.model.parameters(), optim.grad_clip or math.inf)
        norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        if not math.isfinite(norm):
            _on_bad_gradient(parts)
        else:
            parts.skipped = 0
        parts.optimizer.step()
    if parts.average:
        parts.average.update(parts.progress.step)
    refuse_non_finite(parts, parts.progress.step + 1, trained_tensors(parts))
    return {f"train/{name}": value for name, value in losses.items()} | {"train/lr": lr, "train/grad_norm": norm}


def trained_tensors(parts: Parts) -> list[Tensor]:
    """The parameters that the optimiser changes."""
    return [p.detach() for group in parts.optimizer.param_groups for p in group["params"]]


def refuse_non_finite(parts: Parts, step: int, tensors: Sequence[Tensor]) -> None:
    """End the run, before anything is written, if an update left NaN or infinity behind."""
    if tensors and not all_finite(tensors):
        raise NonFiniteError(
            f"step {step}: the update left weights that are not finite; nothing of it was saved "
            "(lower optim.lr or raise optim.eps)"
        )


def _on_bad_gradient(parts: Parts) -> None:
    """fp16 gradients overflow now and then, and the scaler skips that step; anything else is the end."""
    parts.skipped += 1
    if parts.accelerator.scaler is not None and parts.skipped < MAX_SKIPPED_STEPS:
        return
    named = parts.checkpoints.weights.named_parameters()
    wrong = next((n for n, p in named if p.grad is not None and not bool(p.grad.isfinite().all())), "the total norm")
    raise NonFiniteError(
        f"step {parts.progress.step + 1}: the gradient of {wrong} is not finite; the weights were not changed "
        f"(lower optim.lr, set optim.grad_clip, or train.precision=bf16)"
    )


def agree(parts: Parts, batch: TrainBatch) -> list[int]:
    """Exchange what every process must know before a step: rows, whether to stop or save, and bad samples.

    Returns:
        rows of each process.
    """
    counts = dict.fromkeys(COUNTED, 0)
    for sample in batch.bad:
        counts[f"skipped_{sample.reason}"] += 1
    for reason, number in batch.converted.items():
        counts[f"converted_{reason}"] += number
    said = exchange([batch.rows, parts.stop.is_set, parts.clock_says_save, *counts.values()], parts.accelerator.device)
    rows, stops, parts.save_due, *totals = ([process[k] for process in said] for k in range(3 + len(counts)))
    if any(stops):
        stop(parts)  # before anything is counted: the resumed run draws this batch again
    _count_bad(parts, batch, dict(zip(COUNTED, map(sum, totals), strict=True)))
    return rows


def _count_bad(parts: Parts, batch: TrainBatch, counts: dict[str, int]) -> None:
    progress, limit = parts.progress, parts.max_bad_fraction
    if progress.step % parts.data.steps_per_epoch == 0:
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
    if progress.bad_in_epoch > limit * parts.data.num_samples:
        first = f"; the last: {batch.bad[-1].key} ({batch.bad[-1].detail})" if batch.bad else ""
        raise DataError(
            f"{progress.bad_in_epoch} bad samples in an epoch of {parts.data.num_samples}, more than "
            f"data.max_bad_fraction={limit}: {progress.counts}{first}"
        )


def poll(parts: Parts) -> None:
    """Stop, all together, if any process got a signal."""
    if any(flag for (flag,) in exchange([parts.stop.is_set], parts.accelerator.device)):
        stop(parts)


def stop(parts: Parts) -> NoReturn:
    """Save, unless this step is saved, and end the run."""
    if parts.last_saved[0] != parts.progress.step and parts.progress.step:
        save(parts)
    raise StoppedError(f"stopped by a signal at step {parts.progress.step} of {parts.total}; the same command resumes")


def at_epoch_boundary(parts: Parts) -> None:
    """Save, then evaluate: a run killed in the evaluation begins with it again."""
    progress, config = parts.progress, parts.config
    epoch = progress.step // parts.data.steps_per_epoch
    last = progress.step == parts.total
    keep = epoch in parts.kept_epochs or (last and -1 in parts.kept_epochs)
    evaluate = last or keep or epoch % parts.evaluate_every == 0
    if (
        progress.step
        and (evaluate or epoch % config.checkpoint.every_epochs == 0)
        and parts.last_saved[0] != progress.step
    ):
        save(parts)
    if not evaluate:
        return
    started = time.monotonic()
    values: dict[str, float] = {}
    with averaged(parts.average):
        for evaluation in parts.evaluations:
            # Unwrapped: DDP would broadcast buffers in each forward pass, and processes may have unequally many.
            model = parts.accelerator.unwrap_model(parts.model)
            try:
                values |= evaluation.run(model, parts.accelerator.autocast, lambda: poll(parts))
            except NonFiniteError as error:
                raise NonFiniteError(f"evaluation after step {progress.step}: {error}") from None
    if keep:
        parts.keep_embeddings(epoch)
    values["val/seconds"] = round(time.monotonic() - started, 3)
    parts.tracker.log(progress.step, epoch, progress.samples, values)
    if parts.accelerator.is_main_process:
        logger.info("epoch %d of %d (step %d): %s", epoch, config.train.epochs, progress.step, summary(values))
    _mark_best(parts, values)


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


def _mark_best(parts: Parts, values: dict[str, float]) -> None:
    progress, wanted = parts.progress, parts.config.checkpoint
    if wanted.best_metric not in values:
        known = ", ".join(sorted(values))
        raise ConfigError(f"checkpoint.best_metric: {wanted.best_metric} is not among the evaluated metrics: {known}")
    value, sign = values[wanted.best_metric], 1 if wanted.best_mode == "max" else -1
    asked = f"{wanted.best_mode} {wanted.best_metric}"
    if progress.best_metric != asked:
        if progress.best_metric:
            logger.info("best was the checkpoint with %s, from here on it has %s", progress.best_metric, asked)
            progress.best = None
        progress.best_metric = asked
    better = progress.best is None or sign * value > sign * progress.best
    if progress.step and better and math.isfinite(value):
        progress.best = value
        parts.checkpoints.mark_best(progress.step)


def log_step(parts: Parts, values: dict[str, float]) -> None:
    """One training line."""
    step = parts.progress.step + 1
    counts = {f"data/{name}": float(number) for name, number in parts.progress.counts.items()}
    parts.tracker.log(step, step / parts.data.steps_per_epoch, parts.progress.samples, values | counts)


def save(parts: Parts) -> None:
    """Write a checkpoint of this moment."""
    progress = parts.progress
    moments = [t for state in parts.optimizer.state.values() for name, t in state.items() if name != "step"]
    averages = list(parts.average.averages.values()) if parts.average else []
    refuse_non_finite(parts, progress.step, [*trained_tensors(parts), *moments, *averages])
    progress.metrics_offset = parts.tracker.flush()
    if parts.accelerator.scaler is not None:
        progress.scaler = parts.accelerator.scaler.state_dict()
    parts.checkpoints.save(progress, parts.optimizer, parts.average)
    parts.last_saved = (progress.step, time.monotonic())


def _due(parts: Parts) -> bool:
    """Whether the step or the clock (of the main process) asks for a checkpoint."""
    every = parts.config.checkpoint.every_steps
    if parts.progress.step % parts.data.steps_per_epoch == 0:
        return False  # the epoch's end has a rule of its own
    # The main process's clock counts, so that all processes save or none.
    return bool(every and parts.progress.step % every == 0) or bool(parts.save_due[0])
