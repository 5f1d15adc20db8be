"""``gapless report``: a page, tables and figures of runs."""

import logging
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from gapless.errors import ConfigError

logger = logging.getLogger(__name__)


def add_report(parser: ArgumentParser) -> None:
    """What ``gapless report`` takes."""
    parser.add_argument(
        "runs", nargs="+", type=Path, help="Folders of runs; other folders among them are named and passed over."
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("report.html"),
        help="File of the page, .html; its tables are written beside it as .md and .tex.",
    )
    parser.add_argument("--title", type=str, default=None, help="Title of the page.")


def run_report(arguments: Any) -> None:
    """Write the page."""
    from gapless.report import METRICS, load_run, write_report

    if arguments.output.suffix != ".html":
        raise ConfigError(f"output: {arguments.output} must end in .html")
    runs = [path for path in arguments.runs if (path / METRICS).is_file()]
    others = [str(path) for path in arguments.runs if path not in runs]
    if runs and others:  # runs/* has more than runs
        logger.warning("passed over, no runs with metrics: %s", ", ".join(others))
    written = write_report([load_run(run) for run in runs or arguments.runs], arguments.output, arguments.title)
    print(f"{written[0]}, {written[1].name}, {written[2].name} and {len(written) - 3} figures")
