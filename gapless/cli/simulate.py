"""``gapless simulate``: the papers' simulations of how gaps arise."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console

from gapless.errors import ConfigError
from gapless.run_folder import check_file, write_text


def add_simulate(parser: ArgumentParser) -> None:
    """What ``gapless simulate`` takes."""
    parser.add_argument(
        "names", nargs="*", type=str, help="Simulations to run, or all; without a name they are listed."
    )
    parser.add_argument("--small", action="store_true", help="Take settings that need seconds, for a first look.")
    parser.add_argument("--output", type=Path, default=Path("runs/simulate"), help="Folder of figures and JSON files.")


def unused_by_simulate(arguments: Any) -> dict[str, str]:
    """Arguments of simulations, where none is named."""
    return {} if arguments.names else dict.fromkeys(("small", "output"), "without a name nothing is simulated")


def run_simulate(arguments: Any) -> None:
    """Run, print beside the paper's numbers, write and draw."""
    from rich.progress import Progress

    from gapless.report import Table
    from gapless.reproduce.geometry import draw_simulated, simulated_rows
    from gapless.reproduce.simulations import SIMULATIONS

    names = list(SIMULATIONS) if arguments.names == ["all"] else arguments.names
    if not names:
        print("\n".join(f"{name:<16} {title}" for name, (title, *_) in SIMULATIONS.items()))
        return
    unknown = [name for name in names if name not in SIMULATIONS]
    if unknown:
        raise ConfigError(f"SIMULATION: {unknown[0]!r} is not one of all, {', '.join(SIMULATIONS)}")
    for name in names:
        check_file(arguments.output / f"{name}.json")
        check_file(arguments.output / f"{name}.png")
    for name in names:
        title, function, usual, small = SIMULATIONS[name]
        settings: dict[str, Any] = dict(small if arguments.small else usual)
        with Progress(transient=True, console=Console(stderr=True)) as bar:
            task = bar.add_task(name, total=1.0)
            result = function(**settings, progress=partial(_advance, bar, task))
        tree = {"simulation": name, "settings": settings, "numbers": result.numbers, "published": result.published}
        write_text(arguments.output / f"{name}.json", json.dumps(tree, indent=2) + "\n")
        draw_simulated(result, arguments.output / f"{name}.png")
        print(title)
        Console().print(Table("", ["", "ours", "paper"], simulated_rows(result)).terminal())
    print(f"figures and numbers in {arguments.output}")


def _advance(bar: Any, task: Any, share: float) -> None:
    bar.update(task, completed=share)
