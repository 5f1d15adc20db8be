"""Checks a configuration, its data and this machine, and trains nothing."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor

from gapless.config import Config, TrackingConfig
from gapless.config.rules import check_config
from gapless.data import Batch, Place, build_source, build_train_data
from gapless.data.images import LONG_CAPTION
from gapless.data.loader import StreamTrainData
from gapless.data.sources import is_stream
from gapless.data.tokens import CaptionTokenizer
from gapless.engine.run import build_accelerator, run_folder
from gapless.engine.tracking import check_trackers
from gapless.errors import DataError, GaplessError
from gapless.eval import build_pair_evaluation
from gapless.models import ClipModel, Tokenizer, build_model
from gapless.train.clip import build_objective, make_trainable


@dataclass
class Check:
    """The outcome of one check."""

    name: str
    result: str
    error: GaplessError | None = None


def examine(config: Config) -> list[Check]:
    """Run all checks; one that fails does not stop those that do not need it."""
    checks: list[Check] = []

    def note(name: str, check: Callable[[], str]) -> None:
        try:
            checks.append(Check(name, check()))
        except GaplessError as error:
            checks.append(Check(name, str(error), error))

    note("configuration", lambda: _ranges(config))
    note("objective", lambda: _objective(config))
    note("trackers", lambda: check_trackers(config.tracking))
    try:
        accelerator = build_accelerator(replace(config, tracking=TrackingConfig()), run_folder(config))
    except GaplessError as error:
        checks.append(Check("devices", str(error), error))
        _note_pairs(config, note)
        return checks
    place = Place.here()
    note("devices", lambda: _devices(accelerator))
    try:
        objective = build_objective(config)
        model, tokenizer = build_model(config.model, config.seed, objective.initial_bias)
        make_trainable(model, objective, config, accelerator)
    except GaplessError as error:
        checks.append(Check("model", str(error), error))
        _note_pairs(config, note)
        return checks
    tokenize = CaptionTokenizer(tokenizer, model.trims_captions)
    note("model", lambda: _model(model))
    note("training data", lambda: _training_data(config, model, tokenize, place))
    note("validation data", lambda: _validation_data(config, model, tokenizer))
    note("disk", lambda: _disk(config, model))
    return checks


def _note_pairs(config: Config, note: Callable[[str, Callable[[], str]], None]) -> None:
    note("training data", lambda: _pairs(config, "train"))
    note("validation data", lambda: _pairs(config, "val"))


def _ranges(config: Config) -> str:
    check_config(config)
    return "every value is in its range"


def _objective(config: Config) -> str:
    return " + ".join(f"{weight:g} {name}" for name, weight in build_objective(config).weights.items())


def _devices(accelerator: Accelerator) -> str:
    names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())} or {"CPU"}
    precision = accelerator.mixed_precision.replace("no", "fp32")
    return f"{accelerator.num_processes} process(es) on {', '.join(sorted(names))}, precision {precision}"


def _model(model: ClipModel) -> str:
    numbers = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    cut = "cut to the longest" if model.trims_captions else "at full length"
    return f"{numbers / 1e6:.1f} M parameters, {trained / 1e6:.1f} M trained; captions {cut}"


def _pairs(config: Config, split: str) -> str:
    """What can be said of the data without a model's image size and tokenizer."""
    if is_stream(config.data):
        return "streamed shards, not read without the model"
    return f"{len(build_source(config.data, split, config.seed))} pairs, none decoded without the model"


def _training_data(config: Config, model: ClipModel, tokenize: CaptionTokenizer, place: Place) -> str:
    data = build_train_data(config.data, config.seed, model.preprocess, tokenize, place, config.model.towers)
    result = f"{data.num_samples} pairs, {data.steps_per_epoch} steps an epoch; {_first_batch(data.batches(0, 1))}"
    if isinstance(data, StreamTrainData):
        result += f"; {len(data.stream.shards)} shards for {place.world} process(es) with {config.data.workers} workers"
    return result


def _validation_data(config: Config, model: ClipModel, tokenizer: Tokenizer) -> str:
    data = build_pair_evaluation(config, model, tokenizer).data
    return f"{data.num_samples if data.num_samples >= 0 else 'a stream of'} pairs; {_first_batch(data.batches())}"


def _first_batch(batches: Iterable[Batch]) -> str:
    batch = next(iter(batches))
    left_out = f"{len(batch.bad)} left out, first {batch.bad[0].key}: {batch.bad[0].detail}" if batch.bad else ""
    if not len(batch.first):
        raise DataError(f"data: the first batch has no usable pair; {left_out}")
    result = f"first batch: {_sides(batch.first)} and {_sides(batch.second)}"
    number = batch.converted.get(LONG_CAPTION)
    cut = f"{number} captions are longer than the context and are cut, first: {batch.first_cut}" if number else ""
    return "; ".join(part for part in (result, left_out, cut) if part)


def _sides(rows: Tensor) -> str:
    """What one side of a batch holds."""
    if rows.ndim == 4:
        return f"{len(rows)} images of {rows.shape[2]} x {rows.shape[3]}"
    return f"{len(rows)} captions of up to {rows.shape[1]} tokens"


def _disk(config: Config, model: ClipModel) -> str:
    # Weights and AdamW's two moments, and the average if there is one, each in float32.
    copies = 3 + (config.optim.ema_decay is not None)
    needed = sum(p.numel() for p in model.parameters()) * 4 * copies * (config.checkpoint.keep_last + 2)
    folder = run_folder(config).absolute()
    free = shutil.disk_usage(next(f for f in (folder, *folder.parents) if f.exists())).free
    result = f"checkpoints need up to {needed / 1e9:.2f} GB, {free / 1e9:.1f} GB are free"
    if needed > free:
        raise DataError(f"output: {result}")
    return result
