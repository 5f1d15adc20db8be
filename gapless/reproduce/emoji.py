"""The CLIP on embedded emoji that experiments begin with, and what is fine-tuned from it."""

from pathlib import Path
from typing import Any

from gapless.config import Config, config_file, load_config, with_changes
from gapless.engine.run import run_folder
from gapless.reproduce.grid import Member, run_members
from gapless.run_folder import EXPORT


def pretraining(output: Path, name: str = "pretrain", **changes: Any) -> Config:
    """The start: a small CLIP trained with CLIP's loss."""
    return with_changes(load_config(config_file("emoji/pretrain.yaml")), name=name, output=str(output), **changes)


def fine_tuning(start: Config, model: dict[str, Any] | None = None, **changes: Any) -> Config:
    """The contrastive-gap paper's recipe of fine-tuning, from a start and beside it.

    Args:
        start: a run that is finished before.
        model: changes of the model beside its weights.
        changes: of the configuration.
    """
    weights = {"name": f"local-dir:{run_folder(start) / EXPORT}"}
    tune = load_config(config_file("emoji/finetune.yaml"))
    return with_changes(tune, output=start.output, model=weights | (model or {}), **changes)


def ordinary_clip(output: Path, quick: bool) -> Path:
    """The start, fine-tuned with CLIP's loss in 64 dimensions: an ordinary CLIP with an ordinary gap; its run."""
    changes: dict[str, Any] = {"train": {"epochs": 1}} if quick else {}
    start = pretraining(output, **changes)
    tuned = Member(fine_tuning(start, {"embed_dim": 64}, name="clip", **changes))
    run_members([Member(start), tuned], strict=True)
    return tuned.folder
