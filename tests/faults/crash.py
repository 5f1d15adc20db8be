"""Commands that are killed at a file operation, as a power cut or a scheduler would, and what is there afterwards.

The package ckpt-chaos counts a command's file operations and kills it at one of them: ``before`` it happens, ``torn``
with half of what it writes, or ``unsynced``, without what was not flushed to the disk. Here the command runs in
a process forked from one that has imported everything, which makes a kill cost a second and not ten.
"""

import contextlib
import hashlib
import json
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from gapless.cli import main
from tests.processes import CONTEXT
from tests.runs import VOLATILE

MODES = ("before", "torn", "unsynced")
KILLED = 137
CLOCKS = ("metrics_offset", "files", "val/seconds")
"""Keys whose values are times, or depend on how many digits times have."""


UNCOMPARED = ("lock", "tokenizer_config.json")
"""The first names a process; in the second transformers notes where a tokenizer was loaded from."""


def operations(arguments: Sequence[str], folder: Path, log: Path) -> int:
    """Run a command to its end; how many file operations it needed."""
    code = _run(arguments, folder, None, "unsynced", log)
    assert code == 0, (arguments, code)
    return log.read_text().count("\n")


def killed_at(arguments: Sequence[str], folder: Path, number: int, mode: str) -> bool:
    """Kill a command at one of its file operations; False if it had fewer."""
    code = _run(arguments, folder, number, mode)
    assert code in (0, KILLED), (arguments, code)
    return code == KILLED


def killed_after(arguments: Sequence[str], folder: Path, seconds: float) -> None:
    """Kill a command after some seconds, unless it ended before."""
    process = CONTEXT.Process(target=_armed, args=(list(arguments), folder, None, "before", None))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()


def _run(arguments: Sequence[str], folder: Path, number: int | None, mode: str, log: Path | None = None) -> int:
    process = CONTEXT.Process(target=_armed, args=(list(arguments), folder, number, mode, log))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _armed(arguments: list[str], folder: Path, number: int | None, mode: str, log: Path | None) -> None:
    from ckpt_chaos.inject import arm

    os.chdir(folder)
    multiprocessing.set_start_method("fork", force=True)
    arm(str(folder), number, mode, str(log) if log else None, torn_python=True)
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        main(arguments)


def contents(folder: Path) -> dict[str, Any]:
    """Every file and link below a folder with what it holds, times aside."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_file() and path.name not in UNCOMPARED and path.suffix != ".log":
            found[name] = _content(path)
    return found


def _content(path: Path) -> Any:
    if path.suffix == ".safetensors":  # the order of the tensors in a file is not fixed
        tensors = load_file(path)
        return {name: hashlib.sha256(t.numpy().tobytes()).hexdigest() for name, t in sorted(tensors.items())}
    if path.suffix == ".jsonl":
        return [_timeless(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_text()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _timeless(tree: Any) -> Any:
    return {k: v for k, v in tree.items() if k not in (*VOLATILE, *CLOCKS)} if isinstance(tree, dict) else tree
