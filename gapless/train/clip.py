"""From a configuration to a run folder: builds the parts, continues what was interrupted, trains, exports."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType
from torch import nn

from gapless.config import Config, EvalPlan, LossConfig, Ramp, with_changes
from gapless.config.rules import check_config
from gapless.data import Place, build_train_data
from gapless.data.sources import is_stream
from gapless.data.tokens import CaptionTokenizer
from gapless.engine.checkpoint import Checkpoints, Progress
from gapless.engine.parts import Parts
from gapless.engine.processes import Processes
from gapless.engine.resume import find_checkpoint
from gapless.engine.run import FREE_TO_CHANGE, carry_out, prepare
from gapless.engine.tracking import Tracker
from gapless.errors import ConfigError, DataError
from gapless.eval import PairEvaluation, build_pair_evaluation, embed_pairs, save_pairs
from gapless.eval.run import PlanEvaluation
from gapless.losses import PRESETS, Objective
from gapless.models import (
    ClipModel,
    Tokenizer,
    TwinModel,
    build_model,
    freeze_unreached,
    load_export,
    save_export,
    synchronise_batch_norms,
    trained_batch_norms,
)
from gapless.run_folder import CHECKPOINTS, EMBEDDINGS, LATEST
from gapless.signals import StopFlag
from gapless.train.schedule import Schedule, scheduled
from gapless.train.step import ContrastiveStep

logger = logging.getLogger(__name__)

GAP_PAIRS = 4096
"""Training pairs that the removal of the initial gap is fitted on, at most."""


def loss_weights(loss: LossConfig) -> dict[str, float | Ramp]:
    """The preset's terms, with ``loss.terms`` over them."""
    return {**PRESETS[loss.preset], **loss.terms}


def build_objective(config: Config) -> Objective:
    """The objective, with the weights of the first step."""
    loss = config.loss
    weights = loss_weights(loss)
    if weights and not any((w["from"] or w["to"]) if isinstance(w, dict) else w for w in weights.values()):
        raise ConfigError(
            f"loss.terms: the weights of {', '.join(weights)} are all 0, so that nothing would be trained"
        )
    terms = {name: scheduled(weight, 0, 1) for name, weight in weights.items()}
    return Objective(terms, loss.uniform_t, loss.align_alpha, loss.hardness, loss.implementation, Processes())


def run_training(config: Config, fresh: bool = False, resume: str = LATEST) -> Path:
    """Train, or continue, the run that a configuration describes, and export its model.

    Args:
        config: the run.
        fresh: start anew in a folder beside an existing one.
        resume: checkpoint to continue from: latest, older for the newest whole one, or its name.

    Returns:
        The run's folder.

    Raises:
        GaplessError: see the exit codes of ``gapless train``.
    """
    check_config(config)
    free = (*FREE_TO_CHANGE, "data.timeout", *(() if is_stream(config.data) else ("data.workers",)))
    return carry_out(config, partial(build_parts, config, build_objective(config)), free, fresh, resume)


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
    model, tokenizer = _build_model(config, objective, accelerator, checkpoint)
    tokenize = CaptionTokenizer(tokenizer, trim=model.trims_captions)
    with accelerator.main_process_first():  # one process indexes shards
        data = build_train_data(config.data, config.seed, model.preprocess, tokenize, Place.here(), config.model.towers)
        pairs = build_pair_evaluation(config, model, tokenizer)
    prepared, optimizer, average = prepare(accelerator, model, config, checkpoint, progress, lambda m: m.clip)
    clip: ClipModel = accelerator.unwrap_model(prepared)
    if not checkpoint and isinstance(clip, TwinModel) and config.model.initial_gap != "keep":
        _remove_gap(config, clip, tokenizer)
    checkpoints, export = folder / CHECKPOINTS, partial(save_export, clip, tokenizer)
    return Parts(
        config=config,
        accelerator=accelerator,
        model=prepared,
        optimizer=optimizer,
        step=_build_step(config, objective, accelerator, prepared, data.steps_per_epoch),
        data=data,
        evaluations=[pairs, *_further_evaluations(config, tokenizer)],
        evaluate_every=config.eval.every_epochs,
        kept_epochs=config.eval.keep_embeddings,
        keep_embeddings=partial(_keep_embeddings, folder / EMBEDDINGS, pairs),
        fingerprint=f"{data.fingerprint()} {pairs.data.fingerprint()}",
        max_bad_fraction=config.data.max_bad_fraction,
        least_rows=2,  # one pair has nothing to be contrasted with
        around_step=partial(_temperature_rules, clip, config.model.temperature_form == "softplus"),
        checkpoints=Checkpoints(checkpoints, accelerator, config.checkpoint.keep_last, clip.clip, export),
        tracker=Tracker(folder, accelerator),
        average=average,
        stop=stop,
        progress=progress,
    )


def _build_model(
    config: Config, objective: Objective, accelerator: Accelerator, checkpoint: Path | None
) -> tuple[ClipModel, Tokenizer]:
    with accelerator.main_process_first():  # one process downloads weights
        model, tokenizer = build_model(config.model, config.seed, objective.initial_bias, checkpoint)
    make_trainable(model, objective, config, accelerator)
    if config.train.compile:
        _compile(model)
    if accelerator.distributed_type == DistributedType.FSDP:
        model.reshape_scalars()
    return model, tokenizer


def _build_step(
    config: Config, objective: Objective, accelerator: Accelerator, model: nn.Module, steps_per_epoch: int
) -> ContrastiveStep:
    clip, total = accelerator.unwrap_model(model), config.train.epochs * steps_per_epoch
    schedule = Schedule(loss_weights(config.loss), config.model.temperature, clip, total)
    masks = config.loss.duplicates == "mask"
    return ContrastiveStep(model, objective, accelerator, config.train.micro_batch_size, masks, schedule.begin)


@contextmanager
def _temperature_rules(clip: ClipModel, softplus: bool) -> Iterator[None]:
    with clip.softplus_temperature(softplus):
        yield
    clip.clamp_logit_scale()


def _remove_gap(config: Config, model: TwinModel, tokenizer: Tokenizer) -> None:
    """Move the second tower's features onto the first's, as fitted on training pairs."""
    few = with_changes(config, data={"train_samples": min(config.data.train_samples or GAP_PAIRS, GAP_PAIRS)})
    pairs = embed_pairs(model, build_pair_evaluation(few, model, tokenizer, "train").data)
    how = config.model.initial_gap
    assert how != "keep"
    model.remove_gap(pairs.image, pairs.text, how)
    logger.info("initial gap removed (%s, fitted on %d training pairs)", how, len(pairs.image))


def _keep_embeddings(folder: Path, evaluation: PairEvaluation, epoch: int) -> None:
    """Store what was just evaluated."""
    if evaluation.features is not None and PartialState().is_main_process:
        save_pairs(evaluation.features, folder / f"epoch_{epoch:05d}.safetensors")


def _further_evaluations(config: Config, tokenizer: Tokenizer) -> list[PlanEvaluation]:
    if not config.eval.datasets:
        return []
    plan = EvalPlan(
        datasets=config.eval.datasets,
        root=config.eval.root,
        batch_size=config.eval.batch_size,
        workers=config.data.workers,
        max_bad_fraction=config.data.max_bad_fraction,
    )
    return [PlanEvaluation(tokenizer, plan)]


def make_trainable(model: ClipModel, objective: Objective, config: Config, accelerator: Accelerator) -> None:
    """Freeze what no gradient reaches, and see to batch normalisation.

    Raises:
        ConfigError: nothing is left to learn, or batch statistics would depend on how a batch is divided.
    """
    freeze_unreached(model)
    _freeze_unused(model, objective)
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError(
            "model.lock_image, model.lock_text: nothing is left to learn, both towers are locked and the temperature "
            "is fixed or in no term; unlock a tower or some of its groups"
        )
    norms, micro = trained_batch_norms(model.clip), config.train.micro_batch_size
    if not norms:
        return
    world = accelerator.num_processes
    if micro is not None and micro < -(-config.data.batch_size // world):
        raise ConfigError(
            f"train.micro_batch_size: {micro} does not work with batch normalisation ({norms[0]}), whose statistics "
            "would be those of a part of the batch; set it to null or lock the tower"
        )
    if world > 1 and accelerator.device.type == "cpu":
        raise ConfigError(
            f"model.name: batch normalisation ({norms[0]}) takes its statistics from each process's part of the batch, "
            f"and torch synchronises them on GPUs only; train in one process instead of {world}, or lock the tower"
        )
    if world > 1:
        synchronise_batch_norms(model)
        logger.info("batch normalisation is synchronised over %d processes", world)


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
    checkpoint = find_checkpoint(run / CHECKPOINTS, name)
    if checkpoint is None:
        names = sorted(p.name for p in (run / CHECKPOINTS).glob("*") if p.exists()) if run.is_dir() else []
        raise DataError(f"{run} has no checkpoint {name!r} (found: {', '.join(names) or 'none'})")
    model, tokenizer = load_export(checkpoint)
    save_export(model, tokenizer, output, model.clip.state_dict())
    return checkpoint
