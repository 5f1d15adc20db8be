"""The contrastive-gap paper's tables and figures from runs of our own, the paper's numbers beside them.

Two editions of the same grid: ``coco`` as the paper has it, and ``emoji`` on embedded data, which runs anywhere; its
numbers are not the paper's, but every claim of the paper is a claim about it, too.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from accelerate import PartialState

from gapless.config import Config, EvalPlan, config_file, load_config, with_changes
from gapless.data import build_source
from gapless.data.labelled import PAPER_SETS
from gapless.errors import DataError
from gapless.report import Cell, Table, best_row, column_of, load_run, print_tables, write_document, write_report
from gapless.reproduce.contrastive_gap.published import (
    ACCURACY,
    GAP,
    IDENTICAL,
    OBJECTIVES,
    TABLES,
    ZERO_SHOT,
    PaperTable,
)
from gapless.reproduce.grid import Member, run_members, scores, vouched
from gapless.reproduce.statistics import Estimate, better, compare, estimate
from gapless.run_folder import write_text
from gapless.train import run_training

logger = logging.getLogger(__name__)

SEEDS = (42, 24, 44)
DIMENSIONS = (32, 64, 128)
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


@dataclass(frozen=True)
class Edition:
    """The grid on one data set."""

    name: str
    members: list[Member]
    identical: list[Member]
    three_d: list[Member]
    start: Config | None
    """A run that the grid's models begin with; None where weights are named."""
    zero_shot: tuple[str, ...]
    arithmetic: str

    def all_members(self) -> list[Member]:
        """Every run, the short ones first."""
        return [*self.identical, *self.three_d, *self.members]


def reproduce(
    output: Path,
    edition: str = "emoji",
    quick: bool = False,
    data_path: str | None = None,
    root: str | None = None,
    dimensions: Sequence[int] = DIMENSIONS,
    jobs: int | None = None,
    allow_missing: bool = False,
) -> list[Table]:
    """Run the grid, and write contrastive-gap.md, .tex, results.json and report.html.

    Interrupted, it continues where it was; finished runs are not trained again.

    Args:
        output: folder of the runs and the results.
        edition: emoji or coco.
        quick: one seed and shorter runs.
        data_path: COCO's folder, for coco.
        root: folder of the zero-shot sets and of simat, for coco; {dataset} in it becomes the name.
        dimensions: of the shared space; the paper's are 32, 64 and 128.
        jobs: runs at a time; None for one on each GPU.
        allow_missing: whether failed runs are left out of the tables without being an error.

    Raises:
        DataError: runs or data sets are missing (after everything is written), unless allowed.
    """
    runs = output / "runs"
    seeds = SEEDS[:1] if quick else SEEDS
    grid = (
        _coco(runs, seeds, dimensions, data_path, root) if edition == "coco" else _emoji(runs, seeds, dimensions, quick)
    )
    if edition == "coco":
        build_source(grid.members[0].config.data, "val")  # missing pictures are found out before a model is loaded
    if grid.start:
        run_training(grid.start)
    failures = run_members(grid.all_members(), jobs)
    found = {_key(m): scores(m.folder, grid.name, grid.arithmetic) for m in grid.members if vouched(m.folder)}
    tables = [*_claims(found), *_experiments(grid), *_paper_tables(grid, found)]
    if failures:
        rows = [[Cell(name), Cell(told)] for name, told in failures.items()]
        tables.append(Table("Missing", ["run", "why"], rows, "Everything above is without these."))
    if PartialState().is_main_process:
        _write(output, grid, found, tables)
    if failures and not allow_missing:
        first = next(iter(failures.items()))
        raise DataError(f"{len(failures)} of the grid are missing, first {first[0]}: {first[1]} (allow_missing=true)")
    return tables


def _key(member: Member) -> tuple[str, int, int]:
    objective, dimension, seed = (member.labels[name] for name in ("objective", "dimension", "seed"))
    return str(objective), int(dimension), int(seed)


# --- the runs ----------------------------------------------------------------------------------------------------


def _grid(
    base: Config, seeds: Sequence[int], dimensions: Sequence[int], plan: EvalPlan, output: Path
) -> Iterator[Member]:
    for dimension in dimensions:
        for seed in seeds:
            for objective in OBJECTIVES:
                config = with_changes(
                    base,
                    name=f"{objective}-d{dimension}-seed{seed}",
                    output=str(output),
                    seed=seed,
                    loss={"preset": objective},
                    model={"embed_dim": dimension},
                )
                yield Member(config, plan, {"objective": objective, "dimension": dimension, "seed": seed})


def _identical(file: str, output: Path, **changes: object) -> list[Member]:
    """At the temperatures that the authors' code had in turn."""
    base = with_changes(load_config(config_file(f"ablations/{file}.yaml")), output=str(output), **changes)
    return [
        Member(with_changes(base, name=f"identical-t{t}", model={"temperature": t}), labels={"temperature": str(t)})
        for t in (0.07, 0.01)
    ]


def _three_d(file: str, output: Path, **changes: object) -> list[Member]:
    base = load_config(config_file(f"ablations/{file}.yaml"))
    return [Member(with_changes(base, name="three-d", output=str(output), **changes))]


def _emoji(output: Path, seeds: Sequence[int], dimensions: Sequence[int], quick: bool) -> Edition:
    start = with_changes(load_config(config_file("emoji/pretrain.yaml")), name="pretrain", output=str(output))
    tune = load_config(config_file("emoji/finetune.yaml"))
    epochs = 3 if quick else 6
    base = with_changes(tune, model={"name": f"local-dir:{output / 'pretrain' / 'export'}"}, train={"epochs": epochs})
    plan = EvalPlan(["emoji"], ["zero_shot", "retrieval", "gap", "arithmetic"], split="test", captions="first")
    kept = [0, 1, 3, 6, 12, 25, 37, 50]
    shorter = {"train": {"epochs": 50}, "eval": {"keep_embeddings": kept}} if quick else {}
    return Edition(
        "emoji",
        list(_grid(base, seeds, dimensions, plan, output)),
        _identical("identical-emoji", output, **({"train": {"epochs": 20}} if quick else {})),
        _three_d("three-d-emoji", output, **shorter),
        start,
        ("emoji_group", "emoji_skin_tone"),
        "emoji_test",
    )


def _coco(
    output: Path, seeds: Sequence[int], dimensions: Sequence[int], data_path: str | None, root: str | None
) -> Edition:
    base = load_config(config_file("coco/clip.yaml"))
    place: dict[str, object] = {"data": {"path": data_path}} if data_path else {}
    base = with_changes(base, **place)
    datasets = ["pairs", *(PAPER_SETS if root else ()), *(["simat"] if root else [])]
    plan = EvalPlan(
        datasets,
        ["zero_shot", "retrieval", "gap", "arithmetic"],
        root=root,
        data=base.data,
        captions="first",
        workers=base.data.workers,
    )
    return Edition(
        "coco",
        list(_grid(base, seeds, dimensions, plan, output)),
        _identical("identical", output, **place),
        _three_d("three-d", output, **place),
        None,
        PAPER_SETS,
        "simat_dev",
    )


# --- the tables --------------------------------------------------------------------------------------------------


def _experiments(grid: Edition) -> list[Table]:
    """Table 1 and Figure 1, from the logs of their runs."""
    tables = []
    members = [m for m in grid.identical if (m.folder / "metrics.jsonl").is_file()]
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
        if (member.folder / "metrics.jsonl").is_file():
            curve = load_run(member.folder).curve("val/text_retrieval_recall@1")
            distance = dict(load_run(member.folder).curve("val/centroid_distance"))
            rows = [[Cell(f"{e:g}"), Cell(f"{v:.3f}"), Cell(f"{distance[e]:.3f}")] for e, v in curve]
            note = "Paper: the clouds begin apart, become arcs, then rings, and fill the sphere by epoch 275."
            header = ["epoch", "I→T R@1", "centroid distance"]
            tables.append(Table("Figure 1: CLIP in three dimensions", header, rows, note))
    return tables


def _paper_tables(grid: Edition, found: Scores) -> list[Table]:
    tables = [_beside(table, found) for table in TABLES]
    per_set = PaperTable(
        "Table 11: zero-shot accuracy",
        128,
        [column_of(f"{name}/acc1", name) for name in grid.zero_shot],
        [[ZERO_SHOT[name][k][0] for name in grid.zero_shot if name in ZERO_SHOT] for k in range(len(OBJECTIVES))],
        "" if set(grid.zero_shot) <= set(ZERO_SHOT) else "The paper's data sets are others.",
    )
    dimensions = sorted({dimension for _, dimension, _ in found})
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
    return [*tables, _beside(per_set, found), *(_beside(t, found) for t in (*others, *variance))]


def _beside(table: PaperTable, found: Scores) -> Table:
    """Ours over the seeds, and the paper's cells where it has them."""
    ours: dict[str, dict[str, Estimate]] = {}
    seeds: set[int] = set()
    for objective in OBJECTIVES:
        members = {s: v for (o, d, s), v in found.items() if (o, d) == (objective, table.dimension)}
        seeds |= set(members)
        for column in table.columns:
            values = [v[column.metric] for v in members.values() if column.metric in v]
            if values:
                ours.setdefault(objective, {})[column.metric] = estimate(values)
    means = {o: {metric: e.mean for metric, e in each.items()} for o, each in ours.items()}
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


def _claims(found: Scores) -> list[Table]:
    """Each claim by a paired comparison over all dimensions and seeds."""
    rows = []
    for claim, one, other, metric, how in CLAIMS:
        direction = better(metric) if how == "better" else how
        both = [(d, s) for o, d, s in found if o == one and (other, d, s) in found]
        pairs = [(found[one, d, s], found[other, d, s]) for d, s in both]
        values = [(a[metric], b[metric]) for a, b in pairs if metric in a and metric in b]
        if not values:
            continue
        result = compare([a for a, _ in values], [b for _, b in values], direction)
        told = f"{result.difference:+.3f} [{result.low:+.3f}, {result.high:+.3f}]"
        name = f"{claim}: {one} against {other}, {metric} {ARROWS[direction]}"
        rows.append([Cell(name), Cell(told), Cell(str(result.n)), Cell(result.verdict, result.verdict == "holds")])
    note = "Paired differences over dimensions and seeds with their 95 % t interval; a claim holds if all of it does."
    header = ["claim of the paper", "difference", "n", "verdict"]
    return [Table("The paper's claims", header, rows, note)] if rows else []


def _write(output: Path, grid: Edition, found: Scores, tables: Sequence[Table]) -> None:
    title = f"The contrastive gap, {grid.name} edition"
    path = write_document(output, "contrastive-gap", title, tables)
    tree = {"-".join(map(str, key)): dict(values) for key, values in found.items()}
    write_text(output / "results.json", json.dumps(tree, indent=2) + "\n")
    shown = [*grid.identical, *grid.three_d, *(m for m in grid.members if m.labels["seed"] == SEEDS[0])]
    runs = [load_run(m.folder) for m in shown if (m.folder / "metrics.jsonl").is_file()]
    write_report(runs, output / "report.html", title, tables)
    print_tables(tables, 100)
    logger.info("written: %s, %s", path, output / "report.html")
