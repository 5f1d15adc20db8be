"""wandb's sweep files without a server: the same file, the same commands, the same searches, on this machine."""

from gapless.sweep.command import command_of, config_of
from gapless.sweep.file import load_sweep
from gapless.sweep.run import run_sweep

__all__ = ["command_of", "config_of", "load_sweep", "run_sweep"]
