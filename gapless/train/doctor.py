"""Checks a configuration, its data and this machine, and trains nothing."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import open_clip
import torch
from accelerate import Accelerator

from gapless.config import Config, check_config
from gapless.data import Place, build_eval_data, build_train_data
from gapless.data.loader import StreamData, TrainData
from gapless.data.tokens import CaptionTokenizer
from gapless.errors import DataError, GaplessError
from gapless.models import ClipModel, build_model
from gapless.train.run import build_objective, run_folder


@dataclass
class Check:
    """The outcome of one check."""

    name: str
    told: str
    error: GaplessError | None = None


def examine(config: Config) -> list[Check]:
    """Run all checks; one that fails does not stop those that do not need it."""
    accelerator = Accelerator()
    checks: list[Check] = []
    found: dict[str, ClipModel | TrainData] = {}

    def note(name: str, check: Callable[[], str]) -> bool:
        try:
            checks.append(Check(name, check()))
        except GaplessError as error:
            checks.append(Check(name, str(error), error))
        return checks[-1].error is None

    def objective() -> str:
        terms = build_objective(config).weights
        return " + ".join(f"{weight:g} {name}" for name, weight in terms.items())

    def model() -> str:
        built, tokenizer = build_model(config.model, config.seed, build_objective(config).uses_bias)
        found["model"] = built
        trained = sum(p.numel() for p in built.parameters() if p.requires_grad)
        numbers = sum(p.numel() for p in built.parameters())
        cut = "captions cut to the longest" if built.trims_captions else "captions at full length"
        data(built, CaptionTokenizer(tokenizer, built.trims_captions))
        return f"{numbers / 1e6:.1f} M parameters, {trained / 1e6:.1f} M trained, open_clip {open_clip.__version__}, {cut}"

    def data(built: ClipModel, tokenize: CaptionTokenizer) -> None:
        place = Place(accelerator.process_index, accelerator.num_processes)
        note("training data", lambda: _train(build_train_data(config.data, config.seed, built.preprocess, tokenize, place)))
        note("validation data", lambda: _val(config, built, tokenize, place))

    note("configuration", lambda: check_config(config) or "every value is in its range")
    note("objective", objective)
    note("model", model)
    note("devices", lambda: _devices(accelerator))
    if isinstance(found.get("model"), ClipModel):
        note("disk", lambda: _disk(config, sum(p.numel() for p in found["model"].parameters())))  # type: ignore[union-attr]
    return checks


def _train(data: TrainData) -> str:
    batch = next(iter(islice(data.batches(0, 1), 1)))
    told = f"{data.num_samples} pairs, {data.steps_per_epoch} steps an epoch; first batch: {tuple(batch.images.shape)} images, {tuple(batch.tokens.shape)} tokens"  # fmt: skip
    if isinstance(data, StreamData):
        told += f"; {len(data.shards)} shards for {data.place.world} processes with {data.config.workers} workers"
    if batch.bad:
        told += f"; {len(batch.bad)} left out, first {batch.bad[0].key}: {batch.bad[0].detail}"
    if not len(batch.images):
        raise DataError(told)
    return told


def _val(config: Config, model: ClipModel, tokenize: CaptionTokenizer, place: Place) -> str:
    data = build_eval_data(config.data, config.eval.batch_size, model.preprocess, tokenize, place)
    batch = next(iter(data.batches()))
    if not len(batch.images):
        raise DataError(f"the first validation batch has no usable pair ({batch.bad[:1]})")
    return f"{data.num_samples if data.num_samples >= 0 else 'a stream of'} pairs; first batch: {tuple(batch.images.shape)} images"  # fmt: skip


def _devices(accelerator: Accelerator) -> str:
    names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())} or {"CPU"}
    return f"{accelerator.num_processes} process(es) on {', '.join(sorted(names))}, precision {accelerator.mixed_precision}"


def _disk(config: Config, parameters: int) -> str:
    # Weights and AdamW's two moments, and the average if there is one, each in float32.
    copies = 3 + (config.optim.ema_decay is not None)
    needed = parameters * 4 * copies * (config.checkpoint.keep_last + 2)
    folder = run_folder(config).absolute()
    free = shutil.disk_usage(_existing(folder)).free
    told = f"checkpoints need up to {needed / 1e9:.2f} GB, {free / 1e9:.1f} GB are free under {folder.parent.name}/"
    if needed > free:
        raise DataError(f"output: {told}")
    return told


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.parent)
