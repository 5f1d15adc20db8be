"""wandb's sweep files without a server: the same file, the same commands, the same searches, on this machine."""

from gapless.reproduce.sweep.command import command_of, config_of
from gapless.reproduce.sweep.file import load_sweep
from gapless.reproduce.sweep.run import run_sweep

__all__ = ["command_of", "config_of", "load_sweep", "run_sweep"]
