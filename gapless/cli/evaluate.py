"""``gapless eval``: its arguments, and its tables."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from gapless.cli.checkpoints import named_checkpoint
from gapless.config import EvalPlan
from gapless.config.arguments import Location
from gapless.errors import ConfigError, DataError
from gapless.run_folder import RESULTS

PRETRAINED = "Tag or file of weights of an open_clip model; none for random weights."
HEADLINES = {
    "zeroshot_classification": ("acc1", "acc5", "mean_per_class_recall", "centroid_distance"),
    "zeroshot_retrieval": ("image_retrieval_recall@1", "text_retrieval_recall@1", "image_retrieval_recall@5"),
    "zeroshot_retrieval_first_caption": ("image_retrieval_recall@1", "text_retrieval_recall@1"),
    "linear_probe": ("lp_acc1", "lp_mean_per_class_recall"),
    "joint_clustering": ("v_measure", "nmi", "ari", "modality_nmi"),
    "gap": ("centroid_distance", "linear_separability", "mixing@10", "uniformity", "alignment"),
}
"""Metrics that the table shows of a task; of others all."""


def add_eval(parser: ArgumentParser) -> None:
    """What ``gapless eval`` takes."""
    parser.add_argument(
        "model", nargs="?", type=Location, default=None, help="Run, export folder, or name of an open_clip model."
    )
    parser.add_argument("--pretrained", type=Location, default=None, help=PRETRAINED)
    parser.add_argument(
        "--checkpoint",
        type=str,
        default=None,
        help="Checkpoint of the run that is scored: best, latest or step_00000000.",
    )
    parser.add_argument("--config", action="config", help="YAML file with any of these keys.")
    parser.add_class_arguments(EvalPlan, None)
    parser.add_argument(
        "--output", type=Path, default=None, help="Folder of results; by default RUN/results, or results."
    )
    parser.add_argument("--no_cache", action="store_true", help="Keep no image features, and read none.")
    parser.add_argument(
        "--interpolate",
        type=Location,
        default=None,
        help="Base of a fine-tuned model; models between the two are scored (WiSE-FT). Then pretrained is the base's.",
    )
    parser.add_argument(
        "--alphas",
        type=str,
        default="0,0.25,0.5,0.75,1",
        help="Positions between the base (0) and the model (1) that interpolate scores.",
    )
    parser.add_argument(
        "--compare",
        nargs="+",
        type=Path,
        default=None,
        help="Runs whose results are shown side by side; nothing is scored.",
    )


def unused_by_eval(arguments: Any) -> dict[str, str]:
    """Arguments of a score where nothing is scored, and of training among those of the data."""
    if arguments.compare:
        keys = set(vars(arguments)) - {"compare", "config"}
        return dict.fromkeys(sorted(keys), "compare shows results that are there, and scores nothing")
    if "pairs" in arguments.datasets:
        from gapless.eval.datasets import OF_BATCHES

        idle = {f"data.{key}": "no evaluation uses it" for key in OF_BATCHES if key not in ("source", "allow_pipe")}
    else:
        idle = {"data": "only the data set named pairs uses it"}
    if arguments.interpolate:
        return idle | {"no_cache": "models between two others keep no features"}
    return idle | {"alphas": "only interpolate uses it"}


def run_eval(arguments: Any) -> None:
    """Evaluate, interpolate or compare, and print the table."""
    from accelerate import PartialState

    from gapless.eval.compare import evaluations
    from gapless.eval.plan import check_plan
    from gapless.eval.results import results_folder
    from gapless.eval.run import evaluate, evaluate_between, save_on_main
    from gapless.models import check_model, load_model

    if arguments.compare:
        _compare(arguments.compare)
        return
    if arguments.model is None:
        raise ConfigError("MODEL: name a run, an export folder or an open_clip model, or --compare RUN RUN")
    names = set(EvalPlan.__dataclass_fields__)
    plan = EvalPlan(**{k: v for k, v in vars(arguments).items() if k in names})
    folder = Path(arguments.model)
    if arguments.checkpoint is not None:
        folder = named_checkpoint(folder, arguments.checkpoint)
    place, checkpoint = results_folder(folder)
    name = str(folder) if checkpoint else arguments.model
    output = arguments.output or (place if folder.is_dir() else Path(RESULTS))
    keep = partial(save_on_main, output)
    if arguments.interpolate:
        alphas = _numbers(arguments.alphas)
        check_plan(plan)
        check_model(name)
        base, tuned = load_model(arguments.interpolate, arguments.pretrained), load_model(name)
        found = evaluate_between(base, tuned, alphas, plan, keep)
        if PartialState().is_main_process:
            _print_side_by_side(evaluations(found), list(found))
        return
    check_plan(plan)  # before the model is loaded
    loaded = load_model(name, arguments.pretrained)
    run = folder
    if checkpoint:  # a step's number alone would not say of which run
        run = place.parent
        loaded = replace(loaded, name=f"{run.resolve().name}@{checkpoint}")
    cache = None if arguments.no_cache else output.parent / "features"
    results = evaluate(loaded, plan, cache, run, keep, checkpoint)
    if PartialState().is_main_process:
        _print(results, loaded.title)
        print(f"{len(results)} results in {output}")


def _numbers(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.strip("[]").split(",")]
    except ValueError:
        found = []
    if not found or not all(map(math.isfinite, found)):
        raise ConfigError(f"--alphas: {text!r} is no list of finite numbers such as 0,0.5,1")
    return found


def _print(results: Any, title: str) -> None:
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


def _compare(runs: list[Path]) -> None:
    from gapless.eval.compare import columns, evaluations, named

    folders = named(runs)
    scored = columns(folders)
    found, names = evaluations(scored), list(scored)
    shown = [each for each in found if len(each.results) > 1 or len(names) == 1]
    if not shown:
        told = "; ".join(f"{' '.join(each.results)}: {each.label}" for each in found)
        raise DataError(f"compare: no two models were scored at the same, under the same settings ({told})")
    _print_side_by_side(shown, names, [name for name in folders if name in names])
    for each in found:
        if each not in shown:
            print(f"not compared: {each.label}, which only {next(iter(each.results))} was scored at")


def _print_side_by_side(found: Sequence[Any], names: Sequence[str], ends: Sequence[str] = ()) -> None:
    """A row for each metric; with the interval of the difference of the first and the last of some models."""
    from rich.table import Table

    from gapless.eval.compare import difference
    from gapless.report import best_row, column_of

    differences: dict[tuple[str, str], str] = {}
    for each in found if len(ends) > 1 else ():
        for metric in each.metrics() if {ends[0], ends[-1]} <= set(each.results) else ():
            interval = difference(each.results[ends[0]], each.results[ends[-1]], metric)
            if interval is not None:
                mean, low, high = interval
                differences[each.label, metric] = f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"
    table = Table(box=None)
    for name in ("data set, task, metric", *names, *(["difference"] if differences else [])):
        table.add_column(Text(name), no_wrap=True)
    for each in found:
        for metric, values in each.metrics().items():
            rows = {name: {metric: v} for name, v in values.items()}
            best = best_row(rows, column_of(metric)) if each.same_samples else None
            cells = (Text(f"{values[n]:.4f}" if n in values else "-", "bold" if n == best else "") for n in names)
            told = [differences.get((each.label, metric), "")] if differences else []
            table.add_row(Text(f"{each.label} {metric}"), *cells, *told)
    Console(width=10_000).print(table)  # as wide as it is: a number that is cut is none
    for each in found:
        if not each.same_samples:
            counts = ", ".join(f"{name} {r.num_samples}" for name, r in each.results.items())
            print(f"{each.label}: not over the same samples ({counts}), nothing is marked")
    if differences:
        print(f"last column: {ends[0]} minus {ends[-1]}, with its 95 % bootstrap interval over samples")
