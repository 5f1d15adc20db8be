"""What every run does, whatever it trains: a folder, devices, resuming, the loop, the export."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs
from torch import nn

from gapless.config import config_hash, flatten, load_tree
from gapless.environment import check_accelerate, check_joined, compiled
from gapless.errors import ConfigError, DataError
from gapless.signals import StopFlag
from gapless.train.checkpoint import Progress, find_checkpoint, load_optimizer, load_progress
from gapless.train.loop import averaged, fit
from gapless.train.optim import WeightAverage, build_optimizer
from gapless.train.parts import Parts, RunConfig
from gapless.train.tracking import check_trackers, start_trackers

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
FREE_TO_CHANGE = ("name", "output", "tracking.", "checkpoint.", "train.timeout")
"""Keys that do not touch the numbers of a run, so that it continues with others."""
PRECISION = {"auto": None, "fp32": "no", "bf16": "bf16", "fp16": "fp16"}

Build = Callable[[Accelerator, Path, Path | None, Progress, StopFlag], Parts]
"""From the run's folder, its last checkpoint if there is one, and where that was."""


def run_folder(config: RunConfig) -> Path:
    """Where the run lies."""
    return Path(config.output) / config.name.replace("{hash}", config_hash(config))


def carry_out(config: RunConfig, build: Build, free: Sequence[str] = FREE_TO_CHANGE, fresh: bool = False) -> Path:
    """Train, or continue, the run that a configuration describes, and export its model.

    Args:
        config: a dataclass, the run.
        build: makes the parts; from a checkpoint, exactly as they were left.
        free: keys that may change when it continues.
        fresh: start anew in a folder beside an existing one.

    Returns:
        The run's folder.

    Raises:
        GaplessError: see the exit codes of the command line.
    """
    folder = beside(run_folder(config)) if fresh else run_folder(config)
    accelerator = build_accelerator(config, folder)
    checkpoint = find_checkpoint(folder / "checkpoints")
    if checkpoint:
        refuse_changes(folder, config, free)
    accelerator.wait_for_everyone()  # all have looked before the main process makes the folder
    progress = load_progress(checkpoint) if checkpoint else Progress()
    if progress.finished:
        logger.info(
            "%s is finished (step %d), there is nothing left to do; --fresh trains it anew", folder, progress.step
        )
        return folder
    with StopFlag() as stop:
        parts = build(accelerator, folder, checkpoint, progress, stop)
        if accelerator.is_main_process:  # only now: what cannot be built leaves no folder behind
            (folder / CONFIG_FILE).write_text(yaml.safe_dump(_plain(_tree(config)), sort_keys=False))
        _announce(parts, folder, checkpoint)
        start_trackers(accelerator, config.tracking, _tree(config), folder)
        try:
            fit(parts)
        finally:
            for tracker in accelerator.trackers:
                tracker.finish()
        with averaged(parts.average):
            parts.checkpoints.export(folder / "export")
        parts.checkpoints.mark_finished(progress)
    return folder


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
        said = "accelerate" if config.train.precision == "auto" else "train.precision"
        logger.info(
            "%d process(es) on %s, %s, precision %s (from %s)%s",
            accelerator.num_processes,
            accelerator.device,
            accelerator.distributed_type.value,
            accelerator.mixed_precision.replace("no", "fp32"),
            said,
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
        raise ConfigError("fsdp_version: 1, accelerate's default, does not work here; set it to 2 (--fsdp_version 2)")


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
        load_optimizer(checkpoint, accelerator, weights, optimizer, average)
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


def refuse_changes(folder: Path, config: RunConfig, free: Sequence[str]) -> None:
    """A run continues only with the configuration that it began with.

    Raises:
        ConfigError: names the keys that changed.
    """
    try:
        # Loaded as a configuration: keys that it does not know yet have their defaults.
        old = flatten(_plain(_tree(load_tree(type(config), folder / CONFIG_FILE))))
    except (OSError, ConfigError) as error:
        raise DataError(f"{folder / CONFIG_FILE} cannot be read ({error}); --fresh starts anew beside it") from None
    new = flatten(_plain(_tree(config)))
    changed = [k for k in sorted(set(old) | set(new)) if old.get(k) != new.get(k) and not k.startswith(tuple(free))]
    if changed:
        told = "; ".join(f"{k} was {old.get(k)!r}, is {new.get(k)!r}" for k in changed)
        raise ConfigError(f"{folder} began with another configuration: {told}. Use --fresh or another --name")


def beside(folder: Path) -> Path:
    """The folder itself if it is new, else the first free name with a number."""
    number, candidate = 2, folder
    while candidate.exists():
        candidate, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    return candidate


def _tree(config: RunConfig) -> dict[str, Any]:
    return asdict(config)  # type: ignore[call-overload]


def _plain(tree: Any) -> Any:
    """Tuples as lists, as YAML gives them back."""
    if isinstance(tree, dict):
        return {k: _plain(v) for k, v in tree.items()}
    return [_plain(v) for v in tree] if isinstance(tree, list | tuple) else tree
