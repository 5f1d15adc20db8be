"""Training on Accelerate: one loop, exact resume, the same numbers on any number of processes."""

from gapless.train.clip import run_training

__all__ = ["run_training"]
