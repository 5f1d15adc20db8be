"""accelerate's launcher around a verb: its processes, with gapless' signals, exit codes and messages."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import psutil

from gapless.errors import SILENCE, ConfigError, LostProcessError
from gapless.signals import STOPPING, end_with_parent, held_back

LAUNCHER = "GAPLESS_LAUNCHER"
"""Environment variable with the launcher's process id, for the processes that it starts."""
MESSAGE = "TORCHELASTIC_ERROR_FILE"
"""Environment variable with the file from which torch's launcher takes what a process that failed has to say."""


def launch_processes(arguments: Sequence[str], verbs: Collection[str]) -> int:
    """Run ``[options of accelerate launch] VERB [arguments]`` on several processes.

    SIGTERM and SIGINT are passed on to all of them and never end the launcher before them.

    Args:
        arguments: of the command line.
        verbs: first words of verbs.

    Returns:
        The processes' exit code.

    Raises:
        ConfigError: no verb.
        LostProcessError: a process was killed, or lost another.
    """
    usage = f"[options of accelerate launch] VERB [arguments], VERB one of {', '.join(verbs)}"
    if list(arguments[:1]) in (["--help"], ["-h"]):
        print(f"usage: gapless launch {usage}\n\naccelerate launch --help lists accelerate's options.")
        return 0
    command = launched(arguments, verbs)
    if not command:
        raise ConfigError(f"launch: {usage}")
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    options = _on_cpus(list(arguments[: len(arguments) - len(command)]))
    parsed = launch_command_parser().parse_args([*options, "--module", "gapless", *command])
    os.environ[LAUNCHER] = str(os.getpid())
    for name in ("accelerate", "torch"):  # their advice and tracebacks are about themselves
        logging.getLogger(name).setLevel(logging.CRITICAL)
    error = _in_thread(lambda: launch_command(parsed))
    if isinstance(error, ChildFailedError):
        failures = sorted(error.failures.items(), key=lambda item: item[1].timestamp)
        return _outcome([(rank, failure.exitcode, failure.message) for rank, failure in failures])
    if isinstance(error, subprocess.CalledProcessError):
        return _outcome([(0, error.returncode, "")])
    if isinstance(error, ValueError | ConnectionError):
        raise ConfigError(f"launch: {error}") from error
    if error is not None:
        raise error
    return 0


def _in_thread(function: Callable[[], None]) -> BaseException | None:
    """Call a function beside the main thread, which passes signals on to every process that the function starts.

    torch's launcher takes signals over where it runs in the main thread, and then ends its processes in its own way.

    Returns:
        The error that it raised.
    """
    errors: list[BaseException] = []

    def call() -> None:
        with held_back():  # inherited by the processes, which listen to signals once they can
            try:
                function()
            except BaseException as error:
                errors.append(error)

    arrived: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _: arrived.append(number)) for number in STOPPING}
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    reached: set[tuple[int, int]] = set()
    while thread.is_alive():
        thread.join(0.2)
        for child in psutil.Process().children() if arrived else ():  # also one that has just begun
            wish = (child.pid, len(arrived))
            if wish not in reached:
                reached.add(wish)
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.send_signal(arrived[-1])
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return errors[0] if errors else None


def launched(arguments: Sequence[str], verbs: Collection[str]) -> Sequence[str]:
    """The arguments from the first verb on."""
    begin = next((i for i, argument in enumerate(arguments) if argument in verbs), len(arguments))
    return arguments[begin:]


def _on_cpus(options: list[str]) -> list[str]:
    """accelerate starts several CPU processes only as if they had GPUs: with --cpu it would start a single one."""
    if "--cpu" not in options:
        return options
    kept = [option for option in options if option != "--cpu"]
    os.environ["ACCELERATE_USE_CPU"] = "true"
    joined = " ".join(kept).replace("--num_processes ", "--num_processes=").split()
    number = next((option.partition("=")[2] for option in joined if option.startswith("--num_processes=")), "1")
    return ["--multi_gpu", *kept] if number.isdigit() and int(number) > 1 else options


def _outcome(failures: Sequence[tuple[int, int, Any]]) -> int:
    """The exit code of processes that failed (rank, exit code, message), in the order in which they did."""
    for _, code, _ in failures:
        if code > 0 and code != LostProcessError.exit_code:
            return code
    messages = [message["message"] for _, _, message in failures if isinstance(message, dict)]
    silent = [text for text in messages if SILENCE in text]  # then torch killed whoever did not answer
    killed = [
        f"process {rank} of the run was killed ({signal.Signals(-code).name}); the command of a training resumes it"
        for rank, code, _ in failures
        if code < 0
    ]
    raise LostProcessError([*silent, *killed, *messages, "a process of the run was lost"][0])


def join_launcher() -> None:
    """In a process that a launcher started: end, after saving, when the launcher is gone."""
    launcher = os.environ.pop(LAUNCHER, None)  # processes that this one starts are none of the launcher's
    if launcher is not None or "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()
    if launcher is None:
        os.environ.pop(MESSAGE, None)
    elif launcher != str(os.getppid()):  # it was gone before
        os.kill(os.getpid(), signal.SIGTERM)


def leave_message(message: str) -> bool:
    """Leave an error that every surviving process has to the launcher, which prints it once."""
    path = os.environ.get(MESSAGE)
    if not path:
        return False
    content = {"message": message, "extraInfo": {"timestamp": str(int(time.time()))}}
    Path(path).write_text(json.dumps({"message": content}), encoding="utf-8")
    return True
