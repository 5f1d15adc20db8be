"""Small runs for tests: configurations, the command in this process or in one that is killed, and its metrics."""

import contextlib
import io
import json
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import yaml
from accelerate.state import AcceleratorState, GradientState, PartialState

from gapless.cli import main
from tests.processes import CONTEXT

VOLATILE = ("time", "train/samples_per_second", "train/data_time", "val/seconds")
LAUNCHER = str(Path(__file__).parents[1] / "launch.sh")
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


def run(*arguments: str, code: int = 0, **environment: str) -> str:
    """Run the command in this process and check its exit code; all that it said."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logging.getLogger("gapless").addHandler(handler)
    left = None
    try:
        with (
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
            mock.patch.dict(os.environ, environment),
        ):
            main(list(arguments))
    except SystemExit as end:
        left = end.code
    finally:
        logging.getLogger("gapless").removeHandler(handler)
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()
    assert left == code, said.getvalue()
    return said.getvalue()


def outcome(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    code = -1
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(list(arguments))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else -1
    finally:
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()
    return code, out.getvalue(), err.getvalue()


def run_killed(path: Path, lines: int, *arguments: str) -> list[psutil.Process]:
    """Run the command in a process of its own and kill it once a file has so many lines.

    Returns:
        The processes that it had started.
    """
    process = CONTEXT.Process(target=_enter, args=(list(arguments),))
    process.start()
    assert wait_for(path, lines, process.is_alive), "the run ended before it was killed"
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    return children


def start_ranks(world: int, folder: Path, *arguments: str) -> list[Any]:
    """The command on processes that know each other, without a launcher; rank r writes to ``folder/r.log``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world), "ACCELERATE_USE_CPU": "true"}
    ranks = []
    for rank in range(world):
        environment = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        ranks.append(CONTEXT.Process(target=_enter, args=(list(arguments), False, folder / f"{rank}.log", environment)))
        ranks[-1].start()
    return ranks


def run_together(folder: Path, *arguments: str) -> str:
    """The command on two processes; what the first one wrote, which is all that a user sees."""
    ranks = start_ranks(2, folder, *arguments)
    for rank in ranks:
        rank.join(240)
    logs = [(folder / f"{k}.log").read_text() for k in range(2)]
    assert [rank.exitcode for rank in ranks] == [0, 0], logs
    return logs[0]


def run_signalled(path: Path, lines: int, number: int, *arguments: str) -> int | None:
    """Run the command in a process group of its own and signal the group once a file has so many lines.

    Returns:
        The exit code.
    """
    process = CONTEXT.Process(target=_enter, args=(list(arguments), True))
    process.start()
    assert wait_for(path, lines, process.is_alive), "the run ended before it was signalled"
    assert process.pid is not None
    os.killpg(process.pid, number)
    process.join(120)
    return process.exitcode


def _enter(
    arguments: list[str],
    alone: bool = False,
    log: Path = Path(os.devnull),
    environment: Mapping[str, str] | None = None,
) -> None:
    if alone:
        os.setsid()
    os.environ |= environment or {}
    # As in a process that a user starts: loader processes of a killed run notice that it is gone, and end.
    multiprocessing.set_start_method("fork", force=True)
    with log.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        main(arguments)


@contextlib.contextmanager
def terminated(path: Path, lines: int) -> Iterator[None]:
    """Send this process SIGTERM once a file has so many lines and the command listens."""

    def watch() -> None:
        if wait_for(path, lines, lambda: not ended.is_set()):
            while signal.getsignal(signal.SIGTERM) is outside and not ended.is_set():
                time.sleep(0.002)
            os.kill(os.getpid(), signal.SIGTERM)

    def outside(number: int, frame: object) -> None:
        """Passes over a signal that comes before or after the command: it would end the tests."""

    ended = threading.Event()
    watcher = threading.Thread(target=watch)
    before = signal.signal(signal.SIGTERM, outside)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        signal.signal(signal.SIGTERM, before)


def wait_for(path: Path, lines: int, alive: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and alive():
        if path.exists() and path.read_text().count("\n") >= lines:
            return True
        time.sleep(0.002)
    return False


def metrics(run_folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in VOLATILE} for line in lines]
