"""``gapless eval``: its arguments, and its tables."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console

from gapless.config import EvalPlan
from gapless.errors import ConfigError

PRETRAINED = "Tag or weights file of an open_clip model; none for random weights."
HEADLINES = {
    "zeroshot_classification": ("acc1", "acc5", "mean_per_class_recall", "centroid_distance"),
    "zeroshot_retrieval": ("image_retrieval_recall@1", "text_retrieval_recall@1", "image_retrieval_recall@5"),
    "zeroshot_retrieval_first_caption": ("image_retrieval_recall@1", "text_retrieval_recall@1"),
    "linear_probe": ("lp_acc1", "lp_mean_per_class_recall"),
    "joint_clustering": ("v_measure", "nmi", "ari", "modality_nmi"),
    "gap": ("centroid_distance", "linear_separability", "mixing@10", "uniformity", "alignment"),
}
"""Metrics that the table shows of a task; of others all."""


def add_arguments(parser: ArgumentParser) -> None:
    """What ``gapless eval`` takes."""
    parser.add_argument("model", nargs="?", default=None, help="A run, an export folder, or an open_clip model name.")
    parser.add_argument(
        "--pretrained",
        type=str,
        default=None,
        help=PRETRAINED,
    )
    parser.add_argument("--config", action="config", help="YAML file with any of these keys.")
    parser.add_class_arguments(EvalPlan, None)
    parser.add_argument("--output", type=Path, default=None, help="Folder of results; RUN/results, or results.")
    parser.add_argument("--no_cache", action="store_true", help="Keep no image features, and read none.")
    parser.add_argument(
        "--interpolate", type=str, default=None, help="WiSE-FT: base of a fine-tuned model; --pretrained is its."
    )
    parser.add_argument("--alphas", type=str, default="0,0.25,0.5,0.75,1", help="0 is the base, 1 the model.")
    parser.add_argument("--compare", nargs="+", type=Path, default=None, help="Show results of runs side by side.")


def run(arguments: Any) -> None:
    """Evaluate, interpolate or compare, and print the table."""
    from accelerate import PartialState

    from gapless.eval.run import evaluate, evaluate_between, save_all
    from gapless.models import check_model, load_model

    if arguments.compare:
        _compare(arguments.compare)
        return
    if arguments.model is None:
        raise ConfigError("MODEL: name a run, an export folder or an open_clip model, or --compare RUN RUN")
    names = set(EvalPlan.__dataclass_fields__)
    plan = EvalPlan(**{k: v for k, v in vars(arguments).items() if k in names})
    folder = Path(arguments.model)
    output = arguments.output or (folder / "results" if folder.is_dir() else Path("results"))
    if arguments.interpolate:
        check_model(arguments.model)
        base = load_model(arguments.interpolate, arguments.pretrained)
        found = evaluate_between(base, load_model(arguments.model), _numbers(arguments.alphas), plan)
        for results in found.values():
            save_all(results, output)
        if PartialState().is_main_process:
            _print_side_by_side(found)
        return
    loaded = load_model(arguments.model, arguments.pretrained)
    results = evaluate(loaded, plan, None if arguments.no_cache else output.parent / "features", folder)
    save_all(results, output)
    if PartialState().is_main_process:
        _print(results, loaded.title)
        print(f"{len(results)} results in {output}")


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.strip("[]").split(",")]
    except ValueError:
        raise ConfigError(f"--alphas: {text!r} is no list of numbers such as 0,0.5,1") from None


def _print(results: Any, title: str) -> None:
    from rich.table import Table

    table = Table(title, "", box=None)
    table.columns[1].justify = "right"
    for result in results:
        shown = HEADLINES.get(result.task) or tuple(result.metrics)
        left_out = f", {result.num_bad} left out" if result.num_bad else ""
        table.add_row(f"[bold]{result.dataset}[/] {result.task}, {result.num_samples} images{left_out}", "")
        for metric in shown:
            if metric in result.metrics:
                table.add_row(f"  {metric}", f"{result.metrics[metric]:.4f}")
    averaged = [r.metrics["acc1"] for r in results if r.task == "zeroshot_classification"]
    if len(averaged) > 1:
        table.add_row("average of zeroshot_classification acc1", f"{sum(averaged) / len(averaged):.4f}")
    Console().print(table)


def _compare(runs: list[Path]) -> None:
    from gapless.eval.results import bootstrap_difference, comparison, load_results

    names = [run.name if [r.name for r in runs].count(run.name) == 1 else str(run) for run in runs]
    found = {name: load_results(run) for name, run in zip(names, runs, strict=True)}
    first, last = ({(r.dataset, r.task): r for r in found[name]} for name in (names[0], names[-1]))
    told = {}
    for row in comparison(found):
        dataset, task, metric = row.split(" ")
        one, other = (side[dataset, task].samples.get(metric) for side in (first, last))
        if one is not None and other is not None and len(one) == len(other) and len(runs) > 1:
            mean, low, high = bootstrap_difference(one, other)
            told[row] = f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"
    _print_side_by_side(found, told)
    if told:
        print("last column: first minus last, with its 95 % bootstrap interval over samples")


def _print_side_by_side(found: Any, told: Mapping[str, str] | None = None) -> None:
    from rich.table import Table

    from gapless.eval.results import comparison
    from gapless.report.tables import Column, best_row, better

    table = Table(box=None)
    for name in ("data set, task, metric", *found, *(["difference"] if told else [])):
        table.add_column(name, no_wrap=True)
    for row, values in comparison(found).items():
        metric = row.rpartition(" ")[2]
        best = best_row({name: {metric: v} for name, v in values.items()}, Column(metric, "", better(metric)))
        cells = (f"[bold]{v:.4f}[/]" if n == best else f"{v:.4f}" for n, v in values.items())
        table.add_row(row, *cells, *([told.get(row, "")] if told else []))
    Console(width=max(Console().width, 100 + sum(2 + max(7, len(name)) for name in found))).print(table)
