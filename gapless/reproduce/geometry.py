"""What connect-collapse-corrupt and bug-or-feature say of the space, measured on a model and on their simulations.

The model is any run or file of embeddings; without one, an emoji CLIP is trained as in the demo.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState

from gapless.errors import DataError
from gapless.geometry.files import kept_embeddings, load_pair
from gapless.report import Cell, Table, load_run, print_tables, write_document, write_report
from gapless.report.figures import draw_panels
from gapless.report.panels import Panel, Series
from gapless.reproduce.bug_or_feature.geometry import geometry_tables as bug_tables
from gapless.reproduce.connect_collapse_corrupt.geometry import geometry_tables as connect_tables
from gapless.reproduce.emoji import ordinary_clip
from gapless.reproduce.simulated import Simulated
from gapless.reproduce.simulations import SIMULATIONS
from gapless.run_folder import write_text

logger = logging.getLogger(__name__)

CONNECT, BUG = "connect-collapse-corrupt", "bug-or-feature"
OF_PAPER = {
    CONNECT: ("mlp-collapse", "two-spans", "stable-region"),
    BUG: ("plane", "plane-pairs", "sphere", "sphere-512", "flat", "warm", "high-dimension", "ablation"),
}
"""Simulations of each paper."""


def reproduce_geometry(paper: str, output: Path, source: Path | None = None, quick: bool = False) -> list[Table]:
    """Measure, simulate, and write PAPER.md, .tex, report.html and figures.

    Args:
        paper: connect-collapse-corrupt or bug-or-feature.
        output: folder of everything that is written.
        source: a run that kept embeddings, or a file of arrays image and text; None trains an emoji CLIP.
        quick: small simulations and few draws.
    """
    run = None if source and not source.is_dir() else source or ordinary_clip(output / "runs", quick)
    if not PartialState().is_main_process:
        return []
    file = source if run is None else kept_embeddings(run)
    assert file is not None
    x, y, _ = load_pair(file, file)
    tables = connect_tables(x, y, run) if paper == CONNECT else bug_tables(x, y, 5 if quick else 100)
    tables += _simulations(OF_PAPER[paper], output, quick)
    _write(paper, output, tables, run)
    return tables


def _simulations(names: Sequence[str], output: Path, quick: bool) -> list[Table]:
    tables = []
    for name in names:
        title, function, usual, small = SIMULATIONS[name]
        logger.info("simulation %s: %s", name, title)
        simulated = function(**(small if quick else usual))
        draw_simulated(simulated, output / f"{name}.png")
        tables.append(Table(f"Simulation: {title}", ["", "ours", "paper"], simulated_rows(simulated)))
    return tables


def simulated_rows(simulated: Simulated) -> list[list[Cell]]:
    """Its numbers, and the paper's where it has them."""
    published = {name: f"{value:.4g}" for name, value in simulated.published.items()}
    return [
        [Cell(name), Cell(f"{value:.4g}"), Cell(published.get(name, ""))] for name, value in simulated.numbers.items()
    ]


def draw_simulated(simulated: Simulated, path: Path) -> None:
    """Its curves as a picture."""
    panels = [
        Panel(title, "", [Series(line, x, y, k) for k, (line, (x, y)) in enumerate(lines.items())])
        for title, lines in simulated.curves.items()
    ]
    draw_panels(panels, path)


def _write(paper: str, output: Path, tables: Sequence[Table], run: Path | None) -> None:
    path = write_document(output, paper, paper, tables)
    rows = {t.title: [[cell.text for cell in row] for row in t.rows] for t in tables}
    write_text(output / "results.json", json.dumps(rows, indent=2) + "\n")
    if run:
        try:
            write_report([load_run(run)], output / "report.html", f"{paper}: geometry", tables)
        except DataError as error:
            logger.warning("no page: %s", error)
    print_tables(tables, 100)
    logger.info("written: %s", path)
