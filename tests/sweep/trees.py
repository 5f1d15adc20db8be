"""Sweep files for tests, and a program that leaves what a run leaves in a few milliseconds."""

import json
from pathlib import Path
from typing import Any

import yaml

from gapless.sweep.file import Sweep, load_sweep

TRAINER = """
import json, os, signal, sys, time
from pathlib import Path

options = dict(word[2:].split("=", 1) for word in sys.argv[2:] if "=" in word)
folder = Path(options["output"]) / options["name"]
folder.mkdir(parents=True, exist_ok=True)

def stop(*_):
    (folder / "saved").write_text("")
    Path(os.environ["GAPLESS_EXIT_CODE_FILE"]).write_text("75")
    sys.exit(1)  # as a launcher leaves

signal.signal(signal.SIGTERM, stop)
rate, seed = float(options["optim.lr"]), int(options.get("seed", 0))
print("learning rate", rate)
line = {"step": 1, "epoch": 1, "samples": 1, "val/score": 1 / (1 + abs(rate - 0.3)), "val/other": rate}
(folder / "metrics.jsonl").write_text(json.dumps(line) + "\\n")
if seed == 99 and not (folder / "saved").exists():
    time.sleep(60)
if seed >= 1000:
    print("gapless: error: seed of no use", file=sys.stderr)
    sys.exit(seed - 1000)
"""


def sweep_of(tmp_path: Path, **tree: Any) -> Sweep:
    """A sweep from its keys."""
    path = tmp_path / "file.yaml"
    path.write_text(yaml.safe_dump({"method": "grid", "parameters": {"seed": {"values": [1, 2]}}} | tree))
    return load_sweep(path)


def quick_sweep(tmp_path: Path, parameters: dict[str, Any], **tree: Any) -> list[str]:
    """Arguments of ``gapless sweep`` for a file whose runs take milliseconds; each has its name from its parameters."""
    (tmp_path / "trainer.py").write_text(TRAINER)
    command = ["${interpreter}", str(tmp_path / "trainer.py"), "train", f"--output={tmp_path / 'runs'}", "${args}"]
    path = tmp_path / "sweep.yaml"
    metric = {"name": "val/score", "goal": "maximize"}
    path.write_text(
        yaml.safe_dump({"method": "grid", "parameters": parameters, "metric": metric, "command": command} | tree)
    )
    return ["sweep", str(path), f"--record={tmp_path / 'record.json'}"]


def record(tmp_path: Path) -> list[dict[str, Any]]:
    """The trials that a sweep remembers."""
    return json.loads((tmp_path / "record.json").read_text())
