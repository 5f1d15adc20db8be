"""Tables of scores: of one model, and of several side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from gapless.errors import DataError

HEADLINES = {
    "zeroshot_classification": ("acc1", "chance", "majority", "mean_per_class_recall", "acc5", "centroid_distance"),
    "zeroshot_retrieval": ("image_retrieval_recall@1", "text_retrieval_recall@1", "image_retrieval_recall@5"),
    "zeroshot_retrieval_first_caption": ("image_retrieval_recall@1", "text_retrieval_recall@1"),
    "linear_probe": ("lp_acc1", "chance", "majority", "lp_mean_per_class_recall"),
    "joint_clustering": ("v_measure", "nmi", "ari", "modality_nmi"),
    "gap": ("centroid_distance", "linear_separability", "mixing@10", "uniformity", "alignment"),
}
"""Metrics that the table shows of a task; of others all."""


def print_results(results: Any, title: str) -> None:
    """Print the scores of a model."""
    from rich.table import Table

    table = Table(escape(title), "", box=None)
    table.columns[1].justify = "right"
    for result in results:
        shown = HEADLINES.get(result.task) or tuple(result.metrics)
        left_out = f", {result.num_bad} left out" if result.num_bad else ""
        table.add_row(Text(f"{result.label}, {result.num_samples} images{left_out}", "bold"), "")
        for metric in shown:
            if metric in result.metrics:
                table.add_row(f"  {metric}", f"{result.metrics[metric]:.4f}")
    averaged = [r.metrics["acc1"] for r in results if r.task == "zeroshot_classification"]
    if len(averaged) > 1:
        table.add_row("average of zeroshot_classification acc1", f"{sum(averaged) / len(averaged):.4f}")
    Console().print(table)


def compare(runs: list[Path]) -> None:
    """Print the results of runs side by side, where at least two have one.

    Raises:
        DataError: no two were scored at the same.
    """
    from gapless.eval.compare import columns, evaluations, named

    folders = named(runs)
    scored = columns(folders)
    results, names = evaluations(scored), list(scored)
    shown = [result for result in results if len(result.results) > 1 or len(names) == 1]
    if not shown:
        alone = "; ".join(f"{' '.join(result.results)}: {result.label}" for result in results)
        raise DataError(f"compare: no two models were scored at the same, under the same settings ({alone})")
    print_side_by_side(shown, names, [name for name in folders if name in names])
    for result in results:
        if result not in shown:
            print(f"not compared: {result.label}, which only {next(iter(result.results))} was scored at")


def print_side_by_side(results: Sequence[Any], names: Sequence[str], ends: Sequence[str] = ()) -> None:
    """Print a row for each metric of what several models were scored at.

    Args:
        results: evaluations of gapless.eval.compare.
        names: models, a column each.
        ends: models, of whose first and last the difference is shown with its interval.
    """
    from rich.table import Table

    from gapless.report import best_row, column_of

    differences = _differences(results, ends) if len(ends) > 1 else {}
    table = Table(box=None)
    for name in ("data set, task, metric", *names, *(["difference"] if differences else [])):
        table.add_column(Text(name), no_wrap=True)
    for result in results:
        for metric, values in result.metrics().items():
            rows = {name: {metric: v} for name, v in values.items()}
            best = best_row(rows, column_of(metric)) if result.same_samples else None
            cells = [Text(f"{values[n]:.4f}" if n in values else "-", "bold" if n == best else "") for n in names]
            if differences:
                cells.append(Text(differences.get((result.label, metric), "")))
            table.add_row(Text(f"{result.label} {metric}"), *cells)
    Console(width=10_000).print(table)  # as wide as it is: a number that is cut is none
    for result in results:
        if not result.same_samples:
            counts = ", ".join(f"{name} {r.num_samples}" for name, r in result.results.items())
            print(f"{result.label}: not over the same samples ({counts}), nothing is marked")
    if differences:
        print(
            f"last column: {ends[0]} minus {ends[-1]}, with its 95 % bootstrap interval over samples, "
            "or over groups of those that are not independent"
        )


def _differences(results: Sequence[Any], ends: Sequence[str]) -> dict[tuple[str, str], str]:
    """The first of some models minus the last, with its interval, by label and metric."""
    from gapless.eval.compare import difference

    differences: dict[tuple[str, str], str] = {}
    for result in results:
        for metric in result.metrics() if {ends[0], ends[-1]} <= set(result.results) else ():
            interval = difference(result.results[ends[0]], result.results[ends[-1]], metric)
            if interval is not None:
                mean, low, high = interval
                differences[result.label, metric] = f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"
    return differences
