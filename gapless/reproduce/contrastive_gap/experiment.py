"""The contrastive-gap paper's tables and figures from runs of our own, the paper's numbers beside them.

Two editions of the same grid: ``coco`` as the paper has it, and ``emoji`` on embedded data, which runs anywhere; its
numbers are not the paper's, but every claim of the paper is a claim about it, too.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState

from gapless.data import build_source
from gapless.errors import DataError
from gapless.report import Cell, Table, load_run, print_tables, write_document, write_report
from gapless.reproduce.contrastive_gap.claims import Scores, claim_tables
from gapless.reproduce.contrastive_gap.editions import DIMENSIONS, SEEDS, Edition, coco_edition, emoji_edition
from gapless.reproduce.contrastive_gap.tables import paper_tables, tables_of_logs
from gapless.reproduce.grid import Member, run_members, vouched
from gapless.reproduce.scored import scores
from gapless.run_folder import METRICS_FILE, write_text

logger = logging.getLogger(__name__)


def reproduce(
    output: Path,
    edition: str = "emoji",
    quick: bool = False,
    data_path: str | None = None,
    root: str | None = None,
    dimensions: Sequence[int] = DIMENSIONS,
    seeds: Sequence[int] | None = None,
    jobs: int | None = None,
    allow_missing: bool = False,
) -> list[Table]:
    """Run the grid, and write contrastive-gap.md, .tex, results.json and report.html.

    Interrupted, it continues where it was; finished runs are not trained again.

    Args:
        output: folder of the runs and the results.
        edition: emoji or coco.
        quick: shorter runs.
        data_path: COCO's folder, for coco.
        root: folder of the zero-shot sets and of simat, for coco; {dataset} in it becomes the name.
        dimensions: of the shared space; the paper's are 32, 64 and 128.
        seeds: of the runs and, on emoji, of their starts; None for the paper's three, or its first if quick. Verdicts
            are taken at five.
        jobs: runs at a time; None for one on each GPU.
        allow_missing: whether failed runs are left out of the tables without being an error.

    Raises:
        DataError: runs or data sets are missing (after everything is written), unless allowed.
    """
    runs = output / "runs"
    seeds = seeds or (SEEDS[:1] if quick else SEEDS)
    if edition == "coco":
        grid = coco_edition(runs, seeds, dimensions, data_path, root)
        build_source(grid.members[0].config.data, "val")  # missing pictures are noticed before a model is loaded
    else:
        grid = emoji_edition(runs, seeds, dimensions, quick)
    run_members([Member(start) for start in grid.starts], strict=True)
    failures = run_members(grid.all_members(), jobs)
    ours = {_key(m): scores(m.folder, grid.name) for m in grid.members if vouched(m.folder)}
    tables = [*claim_tables(grid, ours), *tables_of_logs(grid), *paper_tables(grid, ours)]
    if failures:
        rows = [[Cell(name), Cell(reason)] for name, reason in failures.items()]
        tables.append(Table("Missing", ["run", "why"], rows, "Everything above is without these."))
    if PartialState().is_main_process:
        _write(output, grid, ours, tables)
    if failures and not allow_missing:
        first = next(iter(failures.items()))
        raise DataError(f"{len(failures)} of the grid are missing, first {first[0]}: {first[1]} (allow_missing=true)")
    return tables


def _key(member: Member) -> tuple[str, int, int]:
    objective, dimension, seed = (member.labels[name] for name in ("objective", "dimension", "seed"))
    return str(objective), int(dimension), int(seed)


def _write(output: Path, grid: Edition, ours: Scores, tables: Sequence[Table]) -> None:
    title = f"The contrastive gap, {grid.name} edition"
    path = write_document(output, "contrastive-gap", title, tables)
    tree = {"-".join(map(str, key)): run.numbers for key, run in ours.items()}
    write_text(output / "results.json", json.dumps(tree, indent=2) + "\n")
    shown = [
        *grid.identical,
        *grid.three_d,
        *(m for m in grid.members if m.labels["seed"] == grid.members[0].labels["seed"]),
    ]
    runs = [load_run(m.folder) for m in shown if (m.folder / METRICS_FILE).is_file()]
    write_report(runs, output / "report.html", title, tables)
    print_tables(tables, 100)
    logger.info("written: %s, %s", path, output / "report.html")
