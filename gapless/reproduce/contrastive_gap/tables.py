"""The tables of the contrastive-gap paper: ours over the seeds, and the paper's numbers beside them."""

from collections.abc import Mapping

from gapless.report import Cell, Column, Table, best_row, column_of, load_run
from gapless.reproduce.contrastive_gap.claims import Scores, runs_of
from gapless.reproduce.contrastive_gap.editions import Edition
from gapless.reproduce.contrastive_gap.published import (
    ACCURACY,
    GAP,
    IDENTICAL,
    OBJECTIVES,
    TABLES,
    ZERO_SHOT,
    PaperTable,
)
from gapless.reproduce.scored import Scored, compare_runs
from gapless.reproduce.statistics import Estimate, better, estimate
from gapless.run_folder import METRICS_FILE


def tables_of_logs(grid: Edition) -> list[Table]:
    """Table 1 and Figure 1, from the logs of their runs."""
    tables = []
    members = [m for m in grid.identical if (m.folder / METRICS_FILE).is_file()]
    if members:
        header = ["", *(f"{name}, {when}" for name in IDENTICAL for when in ("before", "after"))]
        rows = [[Cell("paper"), *(Cell(f"{value:.2f}") for pair in IDENTICAL.values() for value in pair)]]
        for member in members:
            record = load_run(member.folder)
            names = {"centroid distance": "val/centroid_distance", "linear separability": "val/linear_separability"}
            curves = [record.curve(names.get(name, "train/loss")) for name in IDENTICAL]
            cells = [Cell(f"{curve[k][1]:.3f}" if curve else "-") for curve in curves for k in (0, -1)]
            rows.append([Cell(f"ours, temperature {member.labels['temperature']}"), *cells])
        note = "The same images on both sides, no gap at the start; the loss is that of the first and the last batch."
        tables.append(Table("Table 1: identical encoders", header, rows, note))
    for member in grid.three_d:
        if (member.folder / METRICS_FILE).is_file():
            curve = load_run(member.folder).curve("val/text_retrieval_recall@1")
            distance = dict(load_run(member.folder).curve("val/centroid_distance"))
            rows = [[Cell(f"{e:g}"), Cell(f"{v:.3f}"), Cell(f"{distance[e]:.3f}")] for e, v in curve]
            note = "Paper: the clouds begin apart, become arcs, then rings, and fill the sphere by epoch 275."
            header = ["epoch", "I→T R@1", "centroid distance"]
            tables.append(Table("Figure 1: CLIP in three dimensions", header, rows, note))
    return tables


def paper_tables(grid: Edition, scores: Scores) -> list[Table]:
    """Every table that the grid fills, the paper's first."""
    tables = [beside(table, scores) for table in TABLES]
    per_set = PaperTable(
        "Table 11: zero-shot accuracy",
        128,
        [column_of(f"{name}/acc1", name) for name in grid.zero_shot],
        [[ZERO_SHOT[name][k][0] for name in grid.zero_shot if name in ZERO_SHOT] for k in range(len(OBJECTIVES))],
        "" if set(grid.zero_shot) <= set(ZERO_SHOT) else "The paper's data sets are others.",
    )
    dimensions = sorted({dimension for _, dimension, _ in scores})
    others = [
        PaperTable(title, d, columns, [])
        for title, columns in (("Gap", GAP), ("Figure 3: zero-shot accuracy, averaged", [ACCURACY]))
        for d in dimensions
        if not any(t.dimension == d and t.columns == columns for t in TABLES)
    ]
    variance = [
        PaperTable(
            "Figures 2 and 4: components that hold 99 % of the variance",
            d,
            [column_of(f"effective_dim_{side}", f"{side}s") for side in ("image", "text")],
            [],
            "The paper draws the cumulative curves, as the report does.",
        )
        for d in dimensions
    ]
    return [*tables, beside(per_set, scores), *(beside(t, scores) for t in (*others, *variance))]


def beside(table: PaperTable, scores: Scores) -> Table:
    """Ours over the seeds, and the paper's cells where it has them."""
    members = {objective: runs_of(scores, objective, table.dimension) for objective in OBJECTIVES}
    seeds = {seed for runs in members.values() for seed in runs}
    ours: dict[str, dict[str, Estimate]] = {}
    for objective, runs in members.items():
        for column in table.columns:
            values = [run.numbers[column.metric] for run in runs.values() if column.metric in run.numbers]
            if values:
                ours.setdefault(objective, {})[column.metric] = estimate(values)
    best = {column: _best(members, ours, column) for column in table.columns}
    header, rows = [""], [[Cell(objective)] for objective in OBJECTIVES]
    for k, column in enumerate(table.columns):
        has_paper = any(k < len(line) for line in table.published)
        header += [column.title, "paper"] if has_paper else [column.title]
        for row, objective, number in zip(rows, OBJECTIVES, range(len(OBJECTIVES)), strict=True):
            value = ours.get(objective, {}).get(column.metric)
            row.append(Cell("missing" if value is None else str(value), best[column] == objective))
            if has_paper:
                row.append(Cell(_as_published(table.published[number][k])))
    counted = f"Ours: n = {len(seeds)} (seeds {', '.join(map(str, sorted(seeds)))}), mean ± standard error. "
    counted += "Bold: better than both others by 95 % intervals."
    return Table(f"{table.title}, d = {table.dimension}", header, rows, f"{counted} {table.note}".strip())


def _best(
    members: Mapping[str, Mapping[int, Scored]], ours: Mapping[str, Mapping[str, Estimate]], column: Column
) -> str | None:
    """The best objective, if the interval of its difference to every other one is without zero."""
    best = best_row({o: {metric: e.mean for metric, e in row.items()} for o, row in ours.items()}, column)
    if best is None:
        return None
    for other in ours.keys() - {best}:
        found = compare_runs(members[best], members[other], column.metric, better(column.metric))
        low, high = found.interval() if found else (0.0, 0.0)
        if low <= 0 <= high:
            return None
    return best


def _as_published(value: Estimate) -> str:
    return f"{value.mean:g}" if value.error is None else f"{value.mean:.2f} ± {value.error:.2f}"
