"""What every run does, whatever it trains: a folder, devices, resuming, the loop, the export."""

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    InitProcessGroupKwargs,
    broadcast_object_list,
)
from torch import nn

from gapless.config import config_hash
from gapless.engine.changes import EPOCHS, anywhere, changed_keys, refuse_other_data, tree_of
from gapless.engine.checkpoint import Progress, write_state
from gapless.engine.lock import locked
from gapless.engine.loop import Loop, averaged
from gapless.engine.optim import WeightAverage, build_optimizer
from gapless.engine.parts import Parts, RunConfig
from gapless.engine.resume import choose_checkpoint, find_checkpoint, load_optimizer, load_progress, set_aside_newer
from gapless.engine.tracking import check_trackers, start_trackers
from gapless.environment import check_accelerate, check_joined, compiled
from gapless.errors import ConfigError, DataError, GaplessError
from gapless.run_folder import BEST, CHECKPOINTS, CONFIG_FILE, EXPORT, LATEST, LOCK, remove, write_text
from gapless.signals import StopFlag

logger = logging.getLogger(__name__)

FREE_TO_CHANGE = ("name", "output", "tracking.", "checkpoint.", "train.timeout")
"""Keys that do not touch the numbers of a run, so that it continues with others."""
PRECISION = {"auto": None, "fp32": "no", "bf16": "bf16", "fp16": "fp16"}

T = TypeVar("T")
Build = Callable[[Accelerator, Path, Path | None, Progress, StopFlag], Parts]
"""From the run's folder, its last checkpoint if there is one, and where that was."""


def run_folder(config: RunConfig) -> Path:
    """Where the run lies."""
    return Path(config.output) / config.name.replace("{hash}", config_hash(config))


def carry_out(
    config: RunConfig, build: Build, free: Sequence[str] = FREE_TO_CHANGE, fresh: bool = False, resume: str = LATEST
) -> Path:
    """Train, or continue, the run that a configuration describes, and export its model.

    Args:
        config: a dataclass, the run.
        build: makes the parts; from a checkpoint, exactly as they were left.
        free: keys that may change when it continues.
        fresh: start anew in a folder beside an existing one.
        resume: checkpoint to continue from: latest, older for the newest whole one, or its name.

    Returns:
        The run's folder.

    Raises:
        GaplessError: see the exit codes of the command line.
    """
    folder = beside(run_folder(config)) if fresh else run_folder(config)
    config = anywhere(config, folder.name)
    accelerator = build_accelerator(config, folder)
    with ExitStack() as held:
        on_main(accelerator, lambda: held.enter_context(locked(folder)))
        _carry_out(config, build, free, folder, accelerator, resume)
    return folder


def _carry_out(
    config: RunConfig, build: Build, free: Sequence[str], folder: Path, accelerator: Accelerator, resume: str
) -> None:
    """The same in a folder that is locked."""
    is_new = accelerator.is_main_process and os.listdir(folder) == [LOCK]
    checkpoint = on_main(accelerator, lambda: choose_checkpoint(folder / CHECKPOINTS, resume))
    progress = load_progress(checkpoint) if checkpoint else Progress()
    changed = changed_keys(folder, config, free) if checkpoint else []
    if progress.finished and EPOCHS not in changed:
        logger.info(
            "%s is finished (step %d), there is nothing left to do; fresh=true trains it anew", folder, progress.step
        )
        return
    with StopFlag() as stop:
        parts = build(accelerator, folder, checkpoint, progress, stop)
        refuse_other_data(folder, changed, parts.fingerprint, progress)
        try:
            on_main(accelerator, lambda: _enter(parts, folder, config, checkpoint))
            _announce(parts, folder, checkpoint)
            start_trackers(accelerator, config.tracking, tree_of(config), folder)
            _fit(parts)
        except (ConfigError, DataError):
            if is_new and progress.step == 0:  # what was refused before its first step leaves nothing behind
                for inner in folder.iterdir():
                    if inner.name != LOCK:
                        remove(inner)
            raise
        with averaged(parts.average):
            parts.checkpoints.export(folder / EXPORT)
        parts.checkpoints.mark_finished(progress)


def _fit(parts: Parts) -> None:
    try:
        Loop(parts).run()
    finally:
        for tracker in parts.accelerator.trackers:
            tracker.finish()


def _enter(parts: Parts, folder: Path, config: RunConfig, checkpoint: Path | None) -> None:
    """The first changes to the folder of a run: nothing is refused any more."""
    tree, path = tree_of(config), folder / CONFIG_FILE
    parts.checkpoints.clean()
    parts.tracker.cut_back(parts.progress.metrics_offset)
    if checkpoint and parts.progress.finished:  # and goes on for more epochs
        parts.progress.finished = False
        write_state(checkpoint, parts.progress)
    if not path.is_file() or yaml.safe_load(path.read_text()) | {"output": config.output} != tree:
        write_text(path, yaml.safe_dump(tree, sort_keys=False))
    if checkpoint:
        moved = set_aside_newer(folder / CHECKPOINTS, checkpoint)
        if moved:
            logger.warning("newer checkpoints than %s are kept as %s", checkpoint.name, ", ".join(moved))
    if find_checkpoint(folder / CHECKPOINTS, BEST) is None:
        parts.progress.best = None  # of a checkpoint that is gone


def on_main(accelerator: Accelerator, function: Callable[[], T]) -> T:
    """What a function gives on the main process, or the error that it raises there, on every process."""
    result: T | None = None
    error: GaplessError | None = None
    if accelerator.is_main_process:
        try:
            result = function()
        except GaplessError as raised:
            error = raised
    outcome = broadcast_object_list([result, error])
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def build_accelerator(config: RunConfig, folder: Path) -> Accelerator:
    """Devices, precision and distribution as accelerate was launched, with what the configuration fixes.

    Raises:
        ConfigError: a tracker that cannot start, settings of accelerate that a run does not honour, or FSDP 1.
    """
    check_accelerate(config.train.precision)
    if os.environ.get("RANK", "0") == "0":
        check_trackers(config.tracking)
    accelerator = Accelerator(
        mixed_precision=PRECISION[config.train.precision],
        log_with=config.tracking.to or None,
        project_dir=str(folder),
        kwargs_handlers=[
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            InitProcessGroupKwargs(timeout=timedelta(seconds=config.train.timeout)),
        ],
    )
    refuse_fsdp1(accelerator)
    check_joined(accelerator.num_processes)
    if accelerator.is_main_process:
        source = "accelerate" if config.train.precision == "auto" else "train.precision"
        logger.info(
            "%d process(es) on %s, %s, precision %s (from %s)%s",
            accelerator.num_processes,
            accelerator.device,
            accelerator.distributed_type.value,
            accelerator.mixed_precision.replace("no", "fp32"),
            source,
            f", compiled by {compiled()} (from accelerate)" if compiled() else "",
        )
    return accelerator


def refuse_fsdp1(accelerator: Accelerator) -> None:
    """FSDP 1, accelerate's default, flattens parameters: nothing could be saved or averaged by name.

    Raises:
        ConfigError: names the option that works.
    """
    plugin = accelerator.state.fsdp_plugin if accelerator.distributed_type == DistributedType.FSDP else None
    if plugin is not None and plugin.fsdp_version == 1:
        raise ConfigError("fsdp_version: 1, accelerate's default, does not work here; set it to 2")


def prepare(
    accelerator: Accelerator,
    model: nn.Module,
    config: RunConfig,
    checkpoint: Path | None,
    progress: Progress,
    weights_of: Callable[[Any], nn.Module],
) -> tuple[nn.Module, torch.optim.Optimizer, WeightAverage | None]:
    """Place a model on its devices, with its optimiser and average as they were left.

    Args:
        accelerator: of the run.
        model: what is trained.
        config: of the run.
        checkpoint: to continue from.
        progress: where that was.
        weights_of: the module inside the model whose weights checkpoints hold.

    Returns:
        What accelerate prepared, and the average of the weights if there is one.
    """
    torch.manual_seed(config.seed + accelerator.process_index)
    # The loader shards by itself and the schedule is a function of the step: accelerate would divide both again.
    prepared, optimizer = accelerator.prepare(model, build_optimizer(model, config.optim))
    weights, decay = weights_of(accelerator.unwrap_model(prepared)), config.optim.ema_decay
    average = WeightAverage(weights.named_parameters(), decay, prepared.modules()) if decay else None
    if checkpoint:
        load_optimizer(checkpoint, accelerator, weights, optimizer)
        if accelerator.scaler is not None and progress.scaler:
            accelerator.scaler.load_state_dict(progress.scaler)
    return prepared, optimizer, average


def _announce(parts: Parts, folder: Path, checkpoint: Path | None) -> None:
    if not parts.accelerator.is_main_process:
        return
    step, per_epoch = parts.progress.step, parts.data.steps_per_epoch
    if checkpoint:
        epoch, k = divmod(step, per_epoch)
        logger.info(
            "resuming %s from %s: step %d, batch %d of %d in epoch %d",
            folder,
            checkpoint.name,
            step,
            k,
            per_epoch,
            epoch + 1,
        )
    else:
        warm = parts.config.optim.warmup_steps
        logger.info(
            "%s: %d epochs of %d steps, %d samples an epoch, lr %g (%s after %d warm-up steps)",
            folder,
            parts.config.train.epochs,
            per_epoch,
            parts.data.num_samples,
            parts.config.optim.lr,
            parts.config.optim.schedule,
            warm,
        )


def beside(folder: Path) -> Path:
    """The folder itself if it is new, else the first free name with a number."""
    number, candidate = 2, folder
    while candidate.exists():
        candidate, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    return candidate
