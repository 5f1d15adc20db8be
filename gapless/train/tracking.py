"""Where numbers go: metrics.jsonl always, wandb and tensorboard through accelerate's trackers."""

import json
import math
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from gapless.config import TrackingConfig, flatten

FILE = "metrics.jsonl"
WANDB_ID = "wandb_id"


class Tracker:
    """Writes metrics; does nothing on processes other than the main one.

    Args:
        folder: of the run.
        accelerator: whose trackers get the numbers too.
        offset: bytes of metrics.jsonl to keep, from the checkpoint that is continued.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, offset: int = 0) -> None:
        self.accelerator, self.path = accelerator, folder / FILE
        self.started = time.time()
        if accelerator.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.truncate(offset)

    @property
    def offset(self) -> int:
        """Bytes written so far."""
        return self.path.stat().st_size if self.accelerator.is_main_process else 0

    def log(self, step: int, epoch: float, samples: int, values: Mapping[str, float]) -> None:
        """Append one line, and send the same to the trackers."""
        if not self.accelerator.is_main_process:
            return
        line = {
            "step": step,
            "epoch": round(epoch, 6),
            "samples": samples,
            "time": round(time.time() - self.started, 3),
        }
        # Strict JSON has no NaN.
        clean = {name: value if math.isfinite(value) else None for name, value in values.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(line | clean, allow_nan=False) + "\n")
        self.accelerator.log(dict(values) | {"epoch": epoch, "samples": samples}, step=step)


def start_trackers(accelerator: Accelerator, tracking: TrackingConfig, tree: Mapping[str, Any], folder: Path) -> None:
    """Start wandb and tensorboard if they are asked for; wandb continues the run's own id.

    Args:
        accelerator: whose trackers are started.
        tracking: which.
        tree: the run's whole configuration, which they show.
        folder: of the run.
    """
    if not tracking.to or not accelerator.is_main_process:
        return
    id_path = folder / WANDB_ID
    if not id_path.exists():
        id_path.write_text(secrets.token_hex(4))
    options: dict[str, Any] = {
        "wandb": {
            "id": id_path.read_text().strip(),
            "name": folder.name,
            "resume": "allow",
            "tags": tracking.tags,
            "dir": str(folder),
        }
    }
    flat = flatten_for_trackers(tree)
    accelerator.init_trackers(tracking.project, config=flat, init_kwargs=options)


def flatten_for_trackers(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Flat keys, with lists as text: tensorboard takes only scalars."""
    flat = flatten(dict(tree))
    return {k: v if isinstance(v, int | float | str | bool) else str(v) for k, v in flat.items()}
