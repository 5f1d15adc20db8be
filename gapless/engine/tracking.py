"""Where numbers go: metrics.jsonl always, wandb and tensorboard through accelerate's trackers."""

import importlib.util
import json
import logging
import math
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from gapless.config import TrackingConfig, flatten
from gapless.errors import ConfigError
from gapless.run_folder import METRICS_FILE, WANDB_ID, flush, write_text, writing

logger = logging.getLogger(__name__)


class Tracker:
    """Writes metrics; does nothing on processes other than the main one.

    Args:
        folder: of the run.
        accelerator: whose trackers get the numbers too.
    """

    def __init__(self, folder: Path, accelerator: Accelerator) -> None:
        self.accelerator, self.path = accelerator, folder / METRICS_FILE
        self.started = time.time()

    def cut_back(self, offset: int) -> None:
        """Keep the whole lines among the first bytes of metrics.jsonl, and say so if lines that were there are gone."""
        with self.path.open("a+b") as file:
            file.seek(0)
            kept = file.read(offset).rfind(b"\n") + 1
            file.truncate(kept)
        if kept < offset:
            logger.warning("%s was cut since the checkpoint: %d of its %d bytes are there", self.path, kept, offset)

    def flush(self) -> int:
        """Wait until all lines are on the disk; their bytes."""
        if not self.accelerator.is_main_process:
            return 0
        flush(self.path)
        return self.path.stat().st_size

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
        with writing(self.path), self.path.open("a") as file:
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
        write_text(id_path, secrets.token_hex(4))
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


def check_trackers(tracking: TrackingConfig) -> str:
    """Find out what would stop the trackers, before anything is loaded.

    Returns:
        What is tracked, and where.

    Raises:
        ConfigError: a tracker that is not installed, wandb without a key that is not offline, or names that it refuses.
    """
    for name in tracking.to:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"tracking.to: {name} is not installed (pip install {name})")
    if not tracking.to:
        return f"{METRICS_FILE} alone"
    project = tracking.project
    if not project.strip(". ") or len(project) > 128 or set(project) & set("/\\#?%:"):  # a folder, to tensorboard
        raise ConfigError(f"tracking.project: {project!r} does not work, it must be a name without / \\ # ? % :")
    if not all(1 <= len(tag) <= 64 for tag in tracking.tags):
        raise ConfigError(f"tracking.tags: {tracking.tags} do not work, each must have 1 to 64 characters")
    places = [f"wandb ({_wandb_mode()})" if name == "wandb" else name for name in tracking.to]
    return f"{METRICS_FILE}, {', '.join(places)}"


def _wandb_mode() -> str:
    import wandb

    try:
        mode = str(wandb.setup().settings.mode)
        has_key = mode != "online" or wandb.login(prompt=False, verify=False)
    except Exception as error:  # settings and keys that it does not take, each with an error of its own
        raise ConfigError(f"tracking.to: wandb does not start ({' '.join(str(error).split())[:200]})") from None
    if not has_key:
        raise ConfigError("tracking.to: wandb has no key; run wandb login, or set WANDB_MODE=offline")
    return mode


def flatten_for_trackers(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Flat keys, with lists as text: tensorboard takes only scalars."""
    flat = flatten(dict(tree))
    return {k: v if isinstance(v, int | float | str | bool) else str(v) for k, v in flat.items()}
