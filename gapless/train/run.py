"""From a configuration to a run folder: builds the parts, continues what was interrupted, trains, exports."""

import importlib.util
import logging
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from safetensors.torch import load_file

from gapless.config import Config, EvalPlan, config_hash, flatten, load_config, with_changes
from gapless.data import Place, build_train_data
from gapless.data.shards import is_remote
from gapless.data.tokens import CaptionTokenizer
from gapless.errors import ConfigError, DataError
from gapless.eval import PairEvaluation, build_pair_evaluation, embed_pairs, save_pairs
from gapless.eval.run import PlanEvaluation
from gapless.losses import PRESETS, Objective
from gapless.models import ClipModel, Tokenizer, TwinModel, build_model, load_export, save_export
from gapless.rules import check_config
from gapless.train.checkpoint import Checkpoints, Progress, find_checkpoint, full, load_optimizer, load_progress, unwrap
from gapless.train.gather import Processes
from gapless.train.loop import Parts, averaged, fit
from gapless.train.optim import WeightAverage, build_optimizer
from gapless.train.schedule import Schedule, scheduled
from gapless.train.signals import StopFlag
from gapless.train.step import ContrastiveStep
from gapless.train.tracking import Tracker, start_trackers

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
FREE_TO_CHANGE = ("name", "output", "tracking.", "checkpoint.", "data.workers")
"""Keys that do not touch the numbers of a run, so that it continues with others."""
EMBEDDINGS = "embeddings"
"""Folder of the embeddings that a run keeps."""
GAP_PAIRS = 4096
"""Training pairs that the removal of the initial gap is fitted on, at most."""
PRECISION = {"auto": None, "fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def build_objective(config: Config) -> Objective:
    """The objective: the preset's terms, with ``loss.terms`` over them."""
    loss = config.loss
    terms = {name: scheduled(weight, 0, 1) for name, weight in (PRESETS[loss.preset] | loss.terms).items()}
    return Objective(terms, loss.uniform_t, loss.align_alpha, loss.hardness, loss.implementation, Processes())


def run_folder(config: Config) -> Path:
    """Where the run lies."""
    return Path(config.output) / config.name.replace("{hash}", config_hash(config))


def run_training(config: Config, fresh: bool = False) -> Path:
    """Train, or continue, the run that a configuration describes, and export its model.

    Args:
        config: the run.
        fresh: start anew in a folder beside an existing one.

    Returns:
        The run's folder.

    Raises:
        GaplessError: see the exit codes of ``gapless train``.
    """
    check_config(config)
    objective = build_objective(config)
    folder = beside(run_folder(config)) if fresh else run_folder(config)
    accelerator = build_accelerator(config, folder)
    checkpoint = find_checkpoint(folder / "checkpoints")
    if checkpoint:
        refuse_changes(folder, config)
    accelerator.wait_for_everyone()  # all have looked before the main process makes the folder
    progress = load_progress(checkpoint) if checkpoint else Progress()
    if progress.finished:
        logger.info(
            "%s is finished (step %d), there is nothing left to do; --fresh trains it anew", folder, progress.step
        )
        return folder
    with StopFlag() as stop:
        parts = build_parts(config, objective, accelerator, folder, checkpoint, progress, stop)
        if accelerator.is_main_process:  # only now: what cannot be built leaves no folder behind
            (folder / CONFIG_FILE).write_text(yaml.safe_dump(_plain(asdict(config)), sort_keys=False))
        _announce(parts, folder, checkpoint)
        start_trackers(accelerator, config, folder)
        try:
            fit(parts)
        finally:
            for tracker in accelerator.trackers:
                tracker.finish()
    export_current(parts, folder / "export")
    parts.checkpoints.mark_finished(progress)
    return folder


def build_accelerator(config: Config, folder: Path) -> Accelerator:
    """Devices, precision and distribution as accelerate was launched, with what the configuration fixes.

    Raises:
        ConfigError: a tracker that is not installed, which accelerate would pass over in silence.
    """
    for name in config.tracking.to:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"tracking.to: {name} is not installed (pip install {name})")
    accelerator = Accelerator(
        mixed_precision=PRECISION[config.train.precision],
        log_with=config.tracking.to or None,
        project_dir=str(folder),
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    if accelerator.is_main_process:
        said = "accelerate" if config.train.precision == "auto" else "train.precision"
        logger.info(
            "%d process(es) on %s, %s, precision %s (from %s)",
            accelerator.num_processes,
            accelerator.device,
            accelerator.distributed_type.value,
            accelerator.mixed_precision.replace("no", "fp32"),
            said,
        )
    return accelerator


def build_parts(
    config: Config,
    objective: Objective,
    accelerator: Accelerator,
    folder: Path,
    checkpoint: Path | None,
    progress: Progress,
    stop: StopFlag,
) -> Parts:
    """Everything the loop needs; from a checkpoint, exactly as it was left."""
    place = Place(accelerator.process_index, accelerator.num_processes)
    with accelerator.main_process_first():  # one process downloads weights
        model, tokenizer = build_model(config.model, config.seed, objective.initial_bias, checkpoint)
    _freeze_unused(model, objective)
    tokenize = CaptionTokenizer(tokenizer, trim=model.trims_captions)
    with accelerator.main_process_first():  # one process indexes shards
        data = build_train_data(config.data, config.seed, model.preprocess, tokenize, place, config.model.towers)
        pairs = build_pair_evaluation(config, model, tokenizer)
    if config.train.compile:
        _compile(model)
    if accelerator.distributed_type == DistributedType.FSDP:
        model.reshape_scalars()
    torch.manual_seed(config.seed + accelerator.process_index)
    # The loader shards by itself and the schedule is a function of the step: accelerate would divide both again.
    prepared, optimizer = accelerator.prepare(model, build_optimizer(model, config.optim))
    clip = unwrap(accelerator, prepared)
    total = config.train.epochs * data.steps_per_epoch
    average = WeightAverage(clip.clip.named_parameters(), config.optim.ema_decay) if config.optim.ema_decay else None
    if checkpoint:
        load_optimizer(checkpoint, accelerator, prepared, optimizer, average)
        if accelerator.scaler is not None and progress.scaler:
            accelerator.scaler.load_state_dict(progress.scaler)
    elif isinstance(clip, TwinModel) and config.model.initial_gap != "keep":
        _remove_gap(config, clip, tokenizer)
    return Parts(
        config=config,
        accelerator=accelerator,
        model=prepared,
        tokenizer=tokenizer,
        optimizer=optimizer,
        step=ContrastiveStep(
            prepared,
            objective,
            accelerator,
            config.train.micro_batch_size,
            config.loss.duplicates == "mask",
            Schedule(config.loss.terms, config.model.temperature, clip, total).begin,
        ),
        data=data,
        evaluations=[pairs, *_further_evaluations(config, tokenizer, accelerator)],
        keep_embeddings=partial(_keep_embeddings, folder / EMBEDDINGS, pairs),
        checkpoints=Checkpoints(folder / "checkpoints", accelerator, config.checkpoint.keep_last),
        tracker=Tracker(folder, accelerator, progress.metrics_offset),
        average=average,
        stop=stop,
        progress=progress,
    )


def _remove_gap(config: Config, model: TwinModel, tokenizer: Tokenizer) -> None:
    """Move the second tower's features onto the first's, as fitted on training pairs."""
    few = with_changes(config, data={"train_samples": min(config.data.train_samples or GAP_PAIRS, GAP_PAIRS)})
    found = embed_pairs(model, build_pair_evaluation(few, model, tokenizer, "train").data)
    how = config.model.initial_gap
    assert how != "keep"
    model.remove_gap(found.image, found.text, how)
    logger.info("initial gap removed (%s, fitted on %d training pairs)", how, len(found.image))


def _keep_embeddings(folder: Path, evaluation: PairEvaluation, epoch: int) -> None:
    """Store what was just evaluated."""
    if evaluation.features is not None and PartialState().is_main_process:
        save_pairs(evaluation.features, evaluation.data, folder / f"epoch_{epoch:05d}.safetensors")


def _further_evaluations(config: Config, tokenizer: Tokenizer, accelerator: Accelerator) -> list[PlanEvaluation]:
    if not config.eval.datasets:
        return []
    if accelerator.distributed_type == DistributedType.FSDP:
        # Its forward passes are collective, and processes may have unequally many images.
        raise ConfigError("eval.datasets: not with FSDP; score checkpoints with gapless eval")
    plan = EvalPlan(
        datasets=config.eval.datasets,
        root=config.eval.root,
        batch_size=config.eval.batch_size,
        workers=config.data.workers,
        max_bad_fraction=config.data.max_bad_fraction,
    )
    return [PlanEvaluation(tokenizer, plan)]


def _freeze_unused(model: ClipModel, objective: Objective) -> None:
    """A temperature or bias that no term depends on would never get the gradient that DDP waits for."""
    if not objective.uses_temperature:
        model.clip.logit_scale.requires_grad_(False)
    if model.clip.logit_bias is not None and objective.initial_bias is None:
        model.clip.logit_bias.requires_grad_(False)


def _compile(model: ClipModel) -> None:
    """Compile both towers in place, which keeps the names of their weights."""
    model.clip.visual.compile()
    text = model.clip.transformer if hasattr(model.clip, "transformer") else model.clip.text
    text.compile()


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
            "%s: %d epochs of %d steps, %d pairs an epoch, lr %g (%s after %d warm-up steps)",
            folder,
            parts.config.train.epochs,
            per_epoch,
            parts.data.num_samples,
            parts.config.optim.lr,
            parts.config.optim.schedule,
            warm,
        )


def refuse_changes(folder: Path, config: Config) -> None:
    """A run continues only with the configuration that it began with.

    Raises:
        ConfigError: names the keys that changed.
    """
    try:
        old = flatten(_plain(asdict(load_config(folder / CONFIG_FILE))))  # keys that it does not know yet have defaults
    except (OSError, ConfigError) as error:
        raise DataError(f"{folder / CONFIG_FILE} cannot be read ({error}); --fresh starts anew beside it") from None
    new = flatten(_plain(asdict(config)))
    streamed = config.data.source == "shards" and is_remote(str(config.data.path))
    free = FREE_TO_CHANGE[:-1] if streamed else FREE_TO_CHANGE
    changed = [k for k in sorted(set(old) | set(new)) if old.get(k) != new.get(k) and not k.startswith(free)]
    if changed:
        told = "; ".join(f"{k} was {old.get(k)!r}, is {new.get(k)!r}" for k in changed)
        raise ConfigError(f"{folder} began with another configuration: {told}. Use --fresh or another --name")


def beside(folder: Path) -> Path:
    """The folder itself if it is new, else the first free name with a number."""
    number, candidate = 2, folder
    while candidate.exists():
        candidate, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    return candidate


def export_current(parts: Parts, folder: Path) -> None:
    """Write the model as it is now, averaged if it is averaged."""
    clip = unwrap(parts.accelerator, parts.model)
    with averaged(parts.average):
        state = {name: full(tensor) for name, tensor in clip.clip.state_dict().items()}
    if parts.accelerator.is_main_process:
        save_export(clip, parts.tokenizer, folder, state)
    parts.accelerator.wait_for_everyone()


def export_checkpoint(run: Path, name: str, output: Path) -> Path:
    """Write the model of a run's checkpoint as an export folder.

    Args:
        run: the run's folder.
        name: latest, best, or step_....
        output: the export folder.

    Returns:
        The checkpoint that was exported.

    Raises:
        DataError: no such run or checkpoint.
    """
    checkpoint = find_checkpoint(run / "checkpoints", name)
    if checkpoint is None:
        found = sorted(p.name for p in (run / "checkpoints").glob("*")) if run.is_dir() else []
        raise DataError(f"{run} has no checkpoint {name!r} (found: {', '.join(found) or 'none'})")
    model, tokenizer = load_export(checkpoint)
    averages = load_file(checkpoint / "ema.safetensors")
    save_export(model, tokenizer, output, model.clip.state_dict() | averages)
    return checkpoint


def _plain(tree: Any) -> Any:
    """Tuples as lists, as YAML gives them back."""
    if isinstance(tree, dict):
        return {k: _plain(v) for k, v in tree.items()}
    return [_plain(v) for v in tree] if isinstance(tree, list | tuple) else tree
