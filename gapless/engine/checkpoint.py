"""Checkpoints: plain tensors and JSON, written whole and renamed, each also a folder that open_clip loads.

checkpoints/step_00000840/  open_clip_config.json  open_clip_model.safetensors   the evaluated model (local-dir:)
                            raw.safetensors         trained weights, where those of the model are their averages
                            optimizer.safetensors  rng_<rank>.safetensors        what else the run goes on with
                            state.json              where the run was, and a checksum of every file
checkpoints/latest, best    links to such folders
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from gapless.engine.optim import WeightAverage
from gapless.run_folder import (
    BEST,
    LATEST,
    MOMENTS_FILE,
    RAW_FILE,
    STATE_FILE,
    TEMPORARY,
    checksum,
    flush,
    flush_folder,
    remove,
    write_text,
    writing,
)

Tensors = dict[str, Tensor]

FORMAT = 2
"""Of checkpoints. In the first, ``ema.safetensors`` held the averages and the model's file raw weights."""


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
    best_metric: str = ""
    """That metric, with min or max."""
    metrics_offset: int = 0
    """Bytes of metrics.jsonl at this point."""
    scaler: dict[str, float] = field(default_factory=dict)
    """State of the fp16 gradient scaler."""
    finished: bool = False
    """Whether the run ended and was exported."""
    data: str = ""
    """Fingerprint of the data, by which they are known wherever they lie."""
    processes: int = 0
    """Processes of the run when this was saved; 0 if that is not known."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the files beside it."""
    format: int = FORMAT


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

    def clean(self) -> None:
        """Remove what a killed process left half-written."""
        for left_over in self.folder.glob(f"{TEMPORARY}*"):
            remove(left_over)

    def save(self, progress: Progress, optimizer: torch.optim.Optimizer, average: WeightAverage | None) -> None:
        """Write a checkpoint beside the others, then point ``latest`` to it and remove the oldest."""
        name = step_name(progress.step)
        temporary = self.folder / f"{TEMPORARY}{name}"
        main = self.accelerator.is_main_process
        if main:
            remove(temporary)
        try:
            with writing(self.folder / name):
                self._write(temporary, optimizer, average)
                if main:
                    self._take_place(temporary, name, progress)
        finally:
            if main:
                remove(temporary)
        self.accelerator.wait_for_everyone()

    def _write(self, temporary: Path, optimizer: torch.optim.Optimizer, average: WeightAverage | None) -> None:
        """All that is saved but where the run is; every process writes its own."""
        if self.accelerator.is_main_process:
            temporary.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        weights = self._state()
        moments = {f"{n}/{k}": full(t) for n, p in trained(self.weights) for k, t in optimizer.state[p].items()}
        averages = {n: full(t) for n, t in average.averages.items()} if average else {}
        save_file(_rng(self.accelerator.device), temporary / rng_file(self.accelerator.process_index))
        if self.accelerator.is_main_process:
            self.write_model(temporary, weights | averages)
            if average:
                save_file({n: weights[n] for n in averages}, temporary / RAW_FILE)
            save_file(moments, temporary / MOMENTS_FILE)
        self.accelerator.wait_for_everyone()

    def _take_place(self, temporary: Path, name: str, progress: Progress) -> None:
        """Nothing gets a name, and nothing older goes, before all of it is on the disk."""
        progress.processes, progress.format = self.accelerator.num_processes, FORMAT
        progress.files = {p.relative_to(temporary).as_posix(): checksum(p) for p in files_in(temporary)}
        write_state(temporary, progress)
        flush(temporary)
        self._discard(self.folder / name)  # of an attempt that was given up
        temporary.rename(self.folder / name)
        flush_folder(self.folder)
        link(self.folder / LATEST, name)
        self._prune()

    def export(self, folder: Path) -> None:
        """Write the model as it is now."""
        state = self._state()
        if self.accelerator.is_main_process:
            self.write_model(folder, state)
        self.accelerator.wait_for_everyone()

    def mark_best(self, step: int) -> None:
        """Point ``best`` to the checkpoint of a step."""
        if self.accelerator.is_main_process:
            link(self.folder / BEST, step_name(step))
            self._prune()

    def mark_finished(self, progress: Progress) -> None:
        """Note in the newest checkpoint that nothing is left to do."""
        progress.finished = True
        if self.accelerator.is_main_process:
            write_state(self.folder / LATEST, progress)

    def _state(self) -> Tensors:
        return {name: full(tensor) for name, tensor in self.weights.state_dict().items()}

    def _prune(self) -> None:
        # By name: the folder may be relative, or lie behind a link.
        kept = {p.name for p in steps_in(self.folder)[-self.keep_last :]} | {(self.folder / BEST).resolve().name}
        for old in steps_in(self.folder):
            if old.name not in kept:
                self._discard(old)

    def _discard(self, old: Path) -> None:
        """Remove a checkpoint in such a way that half of it never looks like one."""
        if old.exists():
            remove(old.rename(old.with_name(f"{TEMPORARY}old_{old.name}")))


def write_state(checkpoint: Path, progress: Progress) -> None:
    """Write state.json, with a checksum of what it says itself."""
    progress.files[STATE_FILE] = state_checksum(progress)
    write_text(checkpoint / STATE_FILE, json.dumps(asdict(progress), indent=2) + "\n")


def state_checksum(progress: Progress) -> str:
    """SHA-256 of everything in state.json but this."""
    tree = asdict(progress)
    tree["files"].pop(STATE_FILE, None)
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def step_name(step: int) -> str:
    """Name of the checkpoint of a step."""
    return f"step_{step:08d}"


def steps_in(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted((p for p in folder.glob("step_*") if p.name[5:].isdigit()), key=lambda p: int(p.name[5:]))


def files_in(folder: Path) -> list[Path]:
    """All files below a folder, in order."""
    return sorted(p for p in folder.rglob("*") if p.is_file())


def rng_file(rank: int) -> str:
    """Name of the file with the random numbers of a process."""
    return f"rng_{rank}.safetensors"


def trained(weights: nn.Module) -> list[tuple[str, Tensor]]:
    """Name and parameter of what is trained."""
    return [(name, p) for name, p in weights.named_parameters() if p.requires_grad]


def full(tensor: Any) -> Tensor:
    """A whole copy on the CPU of a tensor that may be sharded; all processes must call it."""
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().cpu().clone().contiguous()


def link(path: Path, target: str) -> None:
    """Point a symbolic link to a sibling, without a moment in which it is missing."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, path)
    flush_folder(path.parent)


def _rng(device: torch.device) -> Tensors:
    states = {"cpu": torch.get_rng_state()}
    return states if device.type != "cuda" else states | {"cuda": torch.cuda.get_rng_state(device)}
