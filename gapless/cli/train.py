"""``gapless train`` and ``doctor``: a run of CLIP, and whether it could begin."""

import logging
from functools import partial
from typing import Any

from gapless.cli.runs import add_config_arguments, add_run_arguments, config_of
from gapless.config import Config

logger = logging.getLogger(__name__)

add_train = partial(add_run_arguments, kind=Config)
add_doctor = partial(add_config_arguments, kind=Config)


def run_train(arguments: Any) -> None:
    """Train, or continue."""
    from gapless.train import run_training

    folder = run_training(config_of(arguments, Config), arguments.fresh, arguments.resume)
    logger.info("done: %s (metrics.jsonl, checkpoints, export)", folder)


def run_doctor(arguments: Any) -> None:
    """Print what was checked; the first check that fails is the error."""
    from rich.console import Console
    from rich.table import Table

    from gapless.report.escaping import terminal
    from gapless.train.doctor import examine

    table = Table("check", "", "result", box=None)
    checks = examine(config_of(arguments, Config))
    for check in checks:
        outcome = "[red]fails[/]" if check.error else "[green]ok[/]"
        table.add_row(terminal(check.name), outcome, terminal(check.result))
    Console().print(table)
    failed = [check.error for check in checks if check.error]
    if failed:
        raise failed[0]
