"""Small runs for tests: configurations, the command as a process, and its metrics."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

VOLATILE = ("time", "train/samples_per_second", "train/data_time", "val/seconds")
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def tiny_config(output: Path, **changes: Any) -> dict[str, Any]:
    """A run of seconds on 96 emoji; ``data__workers=2`` changes data.workers."""
    tree: dict[str, Any] = {
        "name": "tiny",
        "output": str(output),
        "seed": 3,
        "data": {"source": "emoji", "batch_size": 16, "workers": 0, "train_samples": 96, "val_samples": 40},
        "model": {"name": "custom", "architecture": TINY},
        "loss": {"preset": "cuaxu"},
        "optim": {"lr": 1.0e-3, "schedule": "linear", "warmup_steps": 3},
        "train": {"epochs": 2, "log_every": 1},
        "checkpoint": {"every_minutes": None, "every_steps": 2},
    }
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def write_config(tree: dict[str, Any], path: Path) -> Path:
    path.write_text(yaml.safe_dump(tree))
    return path


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "gapless", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | environment
    )


def run(*arguments: str, code: int = 0, **environment: str) -> str:
    """Run the command to its end and check its exit code."""
    process = start(*arguments, **environment)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output
    return output


def stop_after(path: Path, lines: int, number: signal.Signals, *arguments: str) -> int:
    """Run the command and signal it once metrics.jsonl has so many lines; the exit code."""
    process = start(*arguments)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_text().count("\n") >= lines:
            process.send_signal(number)
            break
        time.sleep(0.005)
    output, _ = process.communicate(timeout=120)
    assert process.returncode is not None, output
    return process.returncode


def metrics(run_folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in VOLATILE} for line in lines]
