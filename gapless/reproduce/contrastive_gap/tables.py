"""The tables of the contrastive-gap paper: ours over the seeds, and the paper's numbers beside them."""

from collections.abc import Mapping
from typing import Literal

from gapless.report import Cell, Table, best_row, column_of, load_run
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
from gapless.reproduce.statistics import Estimate, better, compare, estimate
from gapless.run_folder import METRICS_FILE

Scores = Mapping[tuple[str, int, int], Mapping[str, float]]
"""By objective, dimension and seed."""
Claim = Literal["better", "equal", "high"]
CLAIMS: tuple[tuple[str, str, str, str, Claim], ...] = (
    ("smaller gap", "cua", "clip", "centroid_distance", "better"),
    ("smaller gap", "cuaxu", "clip", "centroid_distance", "better"),
    ("less separable", "cua", "clip", "linear_separability", "better"),
    ("less separable", "cuaxu", "clip", "linear_separability", "better"),
    ("better uniformity", "cua", "clip", "uniformity", "better"),
    ("better uniformity", "cuaxu", "clip", "uniformity", "better"),
    ("more dimensions in use", "cuaxu", "clip", "effective_dim_image", "high"),
    ("equal retrieval (within 0.02)", "cua", "clip", "text_retrieval_recall@1", "equal"),
    ("equal retrieval (within 0.02)", "cuaxu", "clip", "text_retrieval_recall@1", "equal"),
    ("equal retrieval (within 0.02)", "cua", "clip", "image_retrieval_recall@1", "equal"),
    ("equal retrieval (within 0.02)", "cuaxu", "clip", "image_retrieval_recall@1", "equal"),
    ("better zero-shot", "cua", "clip", "zero_shot/acc1", "better"),
    ("better zero-shot", "cuaxu", "clip", "zero_shot/acc1", "better"),
    ("better arithmetic", "cua", "clip", "simat", "better"),
    ("better arithmetic", "cuaxu", "clip", "simat", "better"),
)
"""What the paper says of its objectives: the claim, of which, against which, by which metric, and how they compare."""
ARROWS = {"low": "lower", "high": "higher", "equal": "equal"}


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
    ours: dict[str, dict[str, Estimate]] = {}
    seeds: set[int] = set()
    for objective in OBJECTIVES:
        members = {s: v for (o, d, s), v in scores.items() if (o, d) == (objective, table.dimension)}
        seeds |= set(members)
        for column in table.columns:
            values = [v[column.metric] for v in members.values() if column.metric in v]
            if values:
                ours.setdefault(objective, {})[column.metric] = estimate(values)
    means = {o: {metric: e.mean for metric, e in row.items()} for o, row in ours.items()}
    best = {c: best_row(means, c) for c in table.columns}
    header, rows = [""], [[Cell(objective)] for objective in OBJECTIVES]
    for k, column in enumerate(table.columns):
        has_paper = any(k < len(line) for line in table.published)
        header += [column.title, "paper"] if has_paper else [column.title]
        for row, objective, number in zip(rows, OBJECTIVES, range(len(OBJECTIVES)), strict=True):
            value = ours.get(objective, {}).get(column.metric)
            row.append(Cell("missing" if value is None else str(value), best[column] == objective))
            if has_paper:
                row.append(Cell(_as_published(table.published[number][k])))
    counted = f"Ours: n = {len(seeds)} (seeds {', '.join(map(str, sorted(seeds)))}), mean ± standard error."
    return Table(f"{table.title}, d = {table.dimension}", header, rows, f"{counted} {table.note}".strip())


def _as_published(value: Estimate) -> str:
    return f"{value.mean:g}" if value.error is None else f"{value.mean:.2f} ± {value.error:.2f}"


def claim_tables(scores: Scores) -> list[Table]:
    """Each claim by a paired comparison over all dimensions and seeds."""
    rows = []
    for claim, one, other, metric, how in CLAIMS:
        direction = better(metric) if how == "better" else how
        both = [(d, s) for o, d, s in scores if o == one and (other, d, s) in scores]
        pairs = [(scores[one, d, s], scores[other, d, s]) for d, s in both]
        values = [(a[metric], b[metric]) for a, b in pairs if metric in a and metric in b]
        if not values:
            continue
        result = compare([a for a, _ in values], [b for _, b in values], direction)
        interval = f"{result.difference:+.3f} [{result.low:+.3f}, {result.high:+.3f}]"
        name = f"{claim}: {one} against {other}, {metric} {ARROWS[direction]}"
        rows.append([Cell(name), Cell(interval), Cell(str(result.n)), Cell(result.verdict, result.verdict == "holds")])
    note = "Paired differences over dimensions and seeds with their 95 % t interval; a claim holds if all of it does."
    header = ["claim of the paper", "difference", "n", "verdict"]
    return [Table("The paper's claims", header, rows, note)] if rows else []
