"""``gapless sweep``: the runs of a sweep file of wandb, without a server."""

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from gapless.config.arguments import PositiveInteger, Seed


def add_sweep(parser: ArgumentParser) -> None:
    """What ``gapless sweep`` takes."""
    parser.add_argument("file", type=Path, help="Sweep file of wandb, such as configs/sweeps/emoji-grid.yaml.")
    parser.add_argument("--jobs", type=PositiveInteger, default=1, help="Number of runs at a time.")
    parser.add_argument(
        "--count",
        type=PositiveInteger | None,
        default=None,
        help="Number of runs in all, in place of the file's run_cap.",
    )
    parser.add_argument(
        "--record", type=Path, default=None, help="File that remembers the runs; by default runs/NAME.sweep.json."
    )
    parser.add_argument("--seed", type=Seed, default=0, help="Seed of the draws in the methods random and bayes.")
    parser.add_argument("--allow_missing", action="store_true", help="Exit with code 0 although runs failed.")


def run_sweep(arguments: Any) -> None:
    """Run the members, and print their table."""
    from rich.console import Console

    from gapless import sweep

    a = arguments
    Console().print(sweep.run_sweep(a.file, a.jobs, a.count, a.record, a.allow_missing, a.seed).terminal())
