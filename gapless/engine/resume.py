"""Which checkpoint a run goes on from, whether it is whole, and what it held."""

import json
import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import get_origin, get_type_hints

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from gapless.engine.checkpoint import FORMAT, Progress, Tensors, rng_file, state_checksum, steps_in, trained
from gapless.errors import DataError
from gapless.run_folder import (
    BEST,
    CAPTIONER_WEIGHTS,
    CLIP_WEIGHTS,
    LATEST,
    MOMENTS_FILE,
    OLD_AVERAGES_FILE,
    RAW_FILE,
    STATE_FILE,
    checksum,
    remove,
)

logger = logging.getLogger(__name__)

OLD_WEIGHTS = (CLIP_WEIGHTS, CAPTIONER_WEIGHTS)
"""In checkpoints of the first format with averages beside them, these hold raw weights."""


def find_checkpoint(folder: Path, name: str = LATEST) -> Path | None:
    """The folder of a checkpoint by name (latest, best, step_...), or None if there is none.

    ``latest`` is the newest one even if the link was lost.
    """
    if name == LATEST:
        steps = steps_in(folder)
        return steps[-1] if steps else None
    path = folder / name
    return path.resolve() if (path / STATE_FILE).is_file() else None


def choose_checkpoint(folder: Path, resume: str) -> Path | None:
    """The checkpoint that a run continues from; None if it has none.

    Args:
        folder: checkpoints/ of the run.
        resume: latest; older for the newest whole one; or the name of one.

    Raises:
        DataError: it is not there or damaged.
    """
    steps = steps_in(folder)
    if resume == "older":
        whole = next((step for step in reversed(steps) if not damage(step)), None)
        if steps and whole is None:
            raise DataError(f"{folder} has no whole checkpoint")
        return whole
    chosen = find_checkpoint(folder, resume)
    if chosen is None:
        if resume == LATEST:
            return None
        raise DataError(f"resume: {folder} has no checkpoint {resume!r}, only {', '.join(s.name for s in steps)}")
    wrong = damage(chosen)
    if wrong:
        older = next((s.name for s in reversed(steps) if s.name != chosen.name and not damage(s)), None)
        advice = f"resume=older continues from {older}" if older else "no older one is whole"
        raise DataError(f"{chosen} is damaged: {wrong}; {advice}")
    return chosen


def damage(checkpoint: Path) -> str | None:
    """What is wrong with the files of a checkpoint, as far as its checksums tell; None if it is whole."""
    try:
        progress = load_progress(checkpoint)
        for name, expected in progress.files.items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            if (state_checksum(progress) if name == STATE_FILE else checksum(path)) != expected:
                return f"{name} is not what was written"
    except (OSError, DataError) as error:
        return str(error)
    return None


def load_progress(checkpoint: Path) -> Progress:
    """Read state.json.

    Raises:
        DataError: it is not readable, or of a newer format.
    """
    path = checkpoint / STATE_FILE
    try:
        tree = {"format": 1} | json.loads(path.read_text())
        if tree["format"] > FORMAT:
            raise DataError(f"{path} is of format {tree['format']}, this version of gapless reads up to {FORMAT}")
        hints = get_type_hints(Progress)
        for known in fields(Progress):
            kind = hints[known.name]
            kind = kind if isinstance(kind, UnionType) else get_origin(kind) or kind
            if known.name in tree and not isinstance(tree[known.name], kind):
                raise TypeError(f"{known.name} is {tree[known.name]!r}")
        return Progress(**tree)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read ({reason})") from None


def load_optimizer(
    checkpoint: Path,
    accelerator: Accelerator,
    weights: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Restore raw weights, moments and random numbers; the model has its measured weights, and an average is of those.

    Raises:
        DataError: tensors that do not fit the model.
    """
    parameters = dict(trained(weights))
    _load_raw(checkpoint, parameters)
    moments = _load(checkpoint / MOMENTS_FILE)
    grouped: dict[str, Tensors] = {}
    for key, tensor in moments.items():
        name, _, part = key.rpartition("/")
        grouped.setdefault(name, {})[part] = tensor
    if moments:
        _refuse_others(checkpoint / MOMENTS_FILE, grouped, parameters)
    for name, state in grouped.items():
        optimizer.state[parameters[name]] = {k: _like(t, parameters[name], k == "step") for k, t in state.items()}
    rng = checkpoint / rng_file(accelerator.process_index)
    if rng.exists():
        _set_rng(_load(rng), accelerator.device)
    else:  # damage() has refused a checkpoint that had one
        logger.warning("%s is not there, as in a run of fewer processes: this process begins with a fresh seed", rng)


@torch.no_grad()
def _load_raw(checkpoint: Path, parameters: Mapping[str, Tensor]) -> None:
    """Give the parameters their raw values, where those that were loaded with the model are averages."""
    path = checkpoint / RAW_FILE
    if not path.is_file() and (checkpoint / OLD_AVERAGES_FILE).is_file():
        path = next(checkpoint / name for name in OLD_WEIGHTS if (checkpoint / name).is_file())
    if path.is_file():
        tensors = {name: tensor for name, tensor in _load(path).items() if path.name == RAW_FILE or name in parameters}
        _refuse_others(path, tensors, parameters)
        for name, tensor in tensors.items():
            parameters[name].copy_(_like(tensor, parameters[name]))


def _refuse_others(path: Path, stored: Mapping[str, object], expected: Mapping[str, object]) -> None:
    odd = sorted(set(stored) ^ set(expected))
    if odd:
        raise DataError(f"{path} does not fit the model: {odd[0]} is in one of them only")


def _load(path: Path) -> Tensors:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read ({' '.join(str(error).split())})") from None


def _like(tensor: Tensor, reference: Tensor, is_count: bool = False) -> Tensor:
    """A tensor placed as a parameter is: on its device, sharded as it is; a count keeps its shape."""
    if not is_count:
        tensor = tensor.reshape(reference.shape)  # FSDP gives scalars a dimension
    if isinstance(reference, DTensor) and not is_count:
        return distribute_tensor(tensor.to(reference.device), reference.device_mesh, reference.placements)
    return tensor.to(reference.device)


def _set_rng(states: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def set_aside_newer(folder: Path, checkpoint: Path) -> list[str]:
    """Rename checkpoints that a run which goes on from an older one leaves behind, and drop a best among them.

    Returns:
        Their new names.
    """
    steps = steps_in(folder)
    newer = steps[[step.name for step in steps].index(checkpoint.name) + 1 :]
    for step in newer:
        remove(folder / f"unused_{step.name}")
    moved = [step.rename(folder / f"unused_{step.name}").name for step in newer]
    if not (folder / BEST / STATE_FILE).is_file():
        (folder / BEST).unlink(missing_ok=True)
    return moved
