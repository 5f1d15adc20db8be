"""``gapless eval``: scores of a model, of models between two, or of runs side by side."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from gapless.cli.checkpoints import named_checkpoint
from gapless.cli.scores import compare, print_results, print_side_by_side
from gapless.config import EvalPlan
from gapless.config.arguments import Location
from gapless.errors import ConfigError
from gapless.run_folder import RESULTS

PRETRAINED = "Tag or file of weights of an open_clip model; none for random weights."


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

    from gapless.eval.plan import check_plan
    from gapless.eval.results import results_folder
    from gapless.eval.run import evaluate, save_on_main
    from gapless.models import load_model

    if arguments.compare:
        compare(arguments.compare)
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
        _interpolate(arguments, name, plan, keep)
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
        print_results(results, loaded.title)
        print(f"{len(results)} results in {output}")


def _interpolate(arguments: Any, name: str, plan: EvalPlan, keep: Any) -> None:
    """Score models between a base and a fine-tuned one, and print them side by side."""
    from accelerate import PartialState

    from gapless.eval.compare import evaluations
    from gapless.eval.plan import check_plan
    from gapless.eval.run import evaluate_between
    from gapless.models import check_model, load_model

    alphas = _numbers(arguments.alphas)
    check_plan(plan)
    check_model(name)
    base, tuned = load_model(arguments.interpolate, arguments.pretrained), load_model(name)
    results = evaluate_between(base, tuned, alphas, plan, keep)
    if PartialState().is_main_process:
        print_side_by_side(evaluations(results), list(results))


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.strip("[]").split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ConfigError(f"--alphas: {text!r} is no list of finite numbers such as 0,0.5,1")
    return numbers
