"""The processes that train the runs of a sweep: in a group of their own, stopped so that they save, and awaited."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from gapless.signals import end_with_parent

LAUNCHERS = ("accelerate", "torchrun", "accelerate.commands.launch", "torch.distributed.run")


class Child:
    """A command that trains a run.

    Args:
        command: its words.
        log: file for its output; None for this process's own output.
        environment: variables beside those of this process.
    """

    def __init__(self, command: Sequence[str], log: Path | None, environment: dict[str, str]) -> None:
        with tempfile.NamedTemporaryFile(prefix="gapless_exit_", delete=False) as file:
            self._code = Path(file.name)
        if log:
            log.parent.mkdir(parents=True, exist_ok=True)
        # Programs that lie beside this Python start without an activated environment.
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
        own = {"PATH": path, "GAPLESS_EXIT_CODE_FILE": str(self._code)}
        output = log.open("a") if log else None
        try:
            # A group of its own: a signal to ours reaches it once, through ``stop``, or when this process is killed.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | environment | own,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        except OSError:
            self._code.unlink()
            raise
        finally:
            if output:
                output.close()
        self._told: set[int] = set()

    def exit_code(self) -> int | None:
        """None while it runs, then gapless' own code: launchers turn every failure into 1."""
        returned = self._process.poll()
        if returned is None or (returned < 0 and self._is_alive()):
            return None
        text = self._code.read_text().strip() if self._code.exists() else ""
        self._code.unlink(missing_ok=True)
        return int(text) if text.isdecimal() and int(text) else returned

    def _is_alive(self) -> bool:
        """Whether anything of the group is left: a run may still save when a signal has ended its launcher."""
        for process in psutil.process_iter():
            with suppress(OSError, psutil.Error):
                if os.getpgid(process.pid) == self._process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    return True
        return False

    def stop(self) -> None:
        """Tell the training processes to save and end; again and again, for those that have started since."""
        with suppress(psutil.Error):  # ended meanwhile
            for process in _trainers(psutil.Process(self._process.pid)):
                if process.pid not in self._told:
                    self._told.add(process.pid)
                    process.terminate()

    def kill(self) -> None:
        """End the whole group at once."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._code.unlink(missing_ok=True)


def _trainers(process: psutil.Process) -> list[psutil.Process]:
    """The process, or what it launched: launchers end by themselves, but kill what saves for longer than 30 seconds."""
    words = process.cmdline()
    launches = any(Path(word).name in LAUNCHERS for word in words[:4])
    return [t for child in process.children() for t in _trainers(child)] if launches else [process]
