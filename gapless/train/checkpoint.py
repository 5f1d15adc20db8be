"""Checkpoints: plain tensors and JSON, written whole and renamed, each also a folder that open_clip loads.

checkpoints/step_00000840/  open_clip_config.json  open_clip_model.safetensors   the model (local-dir:)
                            optimizer.safetensors  ema.safetensors  rng_<rank>.safetensors  state.json
checkpoints/latest, best    links to such folders
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from gapless.errors import DataError
from gapless.train.optim import WeightAverage

Tensors = dict[str, Tensor]


@dataclass
class Progress:
    """Where a run is; with the tensors beside it, all that its future depends on."""

    step: int = 0
    samples: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    """Skipped and converted samples by reason, since the start."""
    bad_in_epoch: int = 0
    best: float | None = None
    """Best value so far of the metric that picks the best checkpoint."""
    metrics_offset: int = 0
    """Bytes of metrics.jsonl at this point."""
    scaler: dict[str, float] = field(default_factory=dict)
    """State of the fp16 gradient scaler."""
    finished: bool = False
    """Whether the run ended and was exported."""


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: checkpoints/ of the run.
        accelerator: all processes take part in saving.
        keep_last: newest checkpoints to keep beside the best.
        weights: the module whose weights are saved, inside what accelerate prepared.
        write_model: writes a model folder with given weights, as exports are.
    """

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        keep_last: int,
        weights: nn.Module,
        write_model: Callable[[Path, Tensors], None],
    ) -> None:
        self.folder, self.accelerator, self.keep_last = folder, accelerator, keep_last
        self.weights, self.write_model = weights, write_model
        if accelerator.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            for left_over in folder.glob(".tmp_*"):
                shutil.rmtree(left_over, ignore_errors=True)

    def save(self, progress: Progress, optimizer: torch.optim.Optimizer, average: WeightAverage | None) -> None:
        """Write a checkpoint beside the others, then point ``latest`` to it and remove the oldest."""
        name = f"step_{progress.step:08d}"
        temporary = self.folder / f".tmp_{name}"
        main = self.accelerator.is_main_process
        if main:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
        self.accelerator.wait_for_everyone()
        weights = {n: full(t) for n, t in self.weights.state_dict().items()}
        moments = {f"{n}/{k}": full(t) for n, p in _trained(self.weights) for k, t in optimizer.state[p].items()}
        averages = {n: full(t) for n, t in average.averages.items()} if average else {}
        save_file(_rng(self.accelerator.device), temporary / f"rng_{self.accelerator.process_index}.safetensors")
        if main:
            self.write_model(temporary, weights)
            save_file(moments, temporary / "optimizer.safetensors")
            save_file(averages, temporary / "ema.safetensors")
            _write_json(temporary / "state.json", asdict(progress))
        self.accelerator.wait_for_everyone()
        if main:
            target = self.folder / name
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)
            link(self.folder / "latest", name)
            self._prune()
        self.accelerator.wait_for_everyone()

    def export(self, folder: Path) -> None:
        """Write the model as it is now."""
        state = {name: full(tensor) for name, tensor in self.weights.state_dict().items()}
        if self.accelerator.is_main_process:
            self.write_model(folder, state)
        self.accelerator.wait_for_everyone()

    def mark_best(self, step: int) -> None:
        """Point ``best`` to the checkpoint of a step."""
        if self.accelerator.is_main_process:
            link(self.folder / "best", f"step_{step:08d}")
            self._prune()

    def mark_finished(self, progress: Progress) -> None:
        """Note in the newest checkpoint that nothing is left to do."""
        progress.finished = True
        if self.accelerator.is_main_process:
            _write_json(self.folder / "latest" / "state.json", asdict(progress))

    def _prune(self) -> None:
        kept = sorted(self.folder.glob("step_*"))[-self.keep_last :]
        best = (self.folder / "best").resolve()
        for old in self.folder.glob("step_*"):
            if old not in kept and old != best:
                shutil.rmtree(old)


def find_checkpoint(folder: Path, name: str = "latest") -> Path | None:
    """The folder of a checkpoint by name (latest, best, step_...), or None if there is none.

    ``latest`` is the newest whole checkpoint even if the link was lost.
    """
    path = folder / name
    if (path / "state.json").is_file():
        return path.resolve()
    whole = [p for p in sorted(folder.glob("step_*")) if (p / "state.json").is_file()]
    return whole[-1] if whole and name == "latest" else None


def load_progress(checkpoint: Path) -> Progress:
    """Read state.json.

    Raises:
        DataError: it is not readable.
    """
    try:
        return Progress(**json.loads((checkpoint / "state.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{checkpoint}/state.json cannot be read ({error}); delete this folder to resume from an older one"
        ) from None


def load_optimizer(
    checkpoint: Path,
    accelerator: Accelerator,
    weights: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
) -> None:
    """Restore moments, averages and random numbers; the model's weights are loaded when it is built.

    Raises:
        DataError: tensors that do not fit the model.
    """
    moments = load_file(checkpoint / "optimizer.safetensors")
    averages = load_file(checkpoint / "ema.safetensors")
    grouped: dict[str, Tensors] = {}
    for key, tensor in moments.items():
        name, _, part = key.rpartition("/")
        grouped.setdefault(name, {})[part] = tensor
    trained = dict(_trained(weights))
    if moments and set(grouped) != set(trained):
        odd = sorted(set(grouped) ^ set(trained))[0]
        raise DataError(f"{checkpoint}/optimizer.safetensors does not fit the model: {odd} is in one of them only")
    for name, state in grouped.items():
        optimizer.state[trained[name]] = {k: like(t, trained[name]) for k, t in state.items()}
    if average:
        for name, tensor in averages.items():
            average.averages[name].copy_(like(tensor, average.averages[name]))
    rng = checkpoint / f"rng_{accelerator.process_index}.safetensors"
    if rng.exists():  # not there if the run had fewer processes; then the fresh seed stays
        _set_rng(load_file(rng), accelerator.device)


def full(tensor: Any) -> Tensor:
    """A whole copy on the CPU of a tensor that may be sharded; all processes must call it."""
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().cpu().clone().contiguous()


def like(tensor: Tensor, reference: Tensor) -> Tensor:
    """A tensor placed as a parameter is: on its device, sharded as it is."""
    if isinstance(reference, DTensor) and tensor.ndim:
        return distribute_tensor(tensor.to(reference.device), reference.device_mesh, reference.placements)
    return tensor.to(reference.device)


def link(path: Path, target: str) -> None:
    """Point a symbolic link to a sibling, without a moment in which it is missing."""
    temporary = path.with_name(f".tmp_{path.name}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, path)


def _write_json(path: Path, tree: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".tmp_{path.name}")
    temporary.write_text(json.dumps(tree, indent=2) + "\n")
    temporary.replace(path)


def _trained(weights: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, p) for name, p in weights.named_parameters() if p.requires_grad]


def _rng(device: torch.device) -> Tensors:
    states = {"cpu": torch.get_rng_state()}
    return states if device.type != "cuda" else states | {"cuda": torch.cuda.get_rng_state(device)}


def _set_rng(states: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
