"""``gapless robustness``: curves of nearest neighbours under noise."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser
from rich.console import Console

from gapless.cli.geometry import add_sources, sources_of
from gapless.cli.options import add_options
from gapless.config.arguments import AtLeastTwo, FiniteNumber, NonNegativeNumber, PositiveInteger
from gapless.errors import ConfigError
from gapless.run_folder import check_file, write_whole

Method = Literal["orthogonal", "approximate", "translate"]
Family = Literal["gaussian", "uniform", "laplace", "rademacher", "student"]
Code = Literal["int8", "binary"]
Side = Literal["image", "text"]
ALPHAS = [0.0, 0.25, 0.5, 0.75, 1.0]
CANDIDATES = "File (.npy) of integers (N,), the row of each query's right candidate; null takes row i for query i."


def add_robustness(parser: ArgumentParser) -> None:
    """What ``gapless robustness`` takes."""
    add_sources(parser)
    add_options(
        parser,
        ("labels", Path, None, CANDIDATES),
        ("retrieved", Side, "text", "Modality that is searched, moved and noisy."),
        ("method", Method, "orthogonal", "Method that closes the gap (docs/closing.md)."),
        ("epsilon", NonNegativeNumber, 0.05, "Share of the variance that the method approximate drops."),
        ("alphas", list[FiniteNumber], ALPHAS, "Shares of the gap that are closed, one point of a curve each."),
        ("sigmas", list[NonNegativeNumber], [0.025], "Standard deviations of each component of the noise."),
        ("noise", list[Family], ["gaussian"], "Families of noise."),
        (
            "levels",
            list[AtLeastTwo],
            [],
            "Numbers of levels on [-3, 3] that components are quantised to, a curve each.",
        ),
        ("codes", list[Code], [], "Codes of vector indexes in place of the components, a curve each."),
        ("draws", PositiveInteger, 100, "Number of draws of the noise."),
        ("mode", Literal["l2", "cosine"], "l2", "Nearness by distance (l2), or by cosine with moved rows of length 1."),
        ("output", Path, None, "File for the curves as JSON; a figure is drawn beside it."),
    )


def unused_by_robustness(arguments: Any) -> dict[str, str]:
    """Arguments of a method that was not chosen, and of noise where none is added."""
    idle = {}
    if arguments.method != "approximate":
        idle["epsilon"] = f"method {arguments.method} does not use it"
    for key, other in (("noise", "sigmas"), ("sigmas", "noise")):
        if getattr(arguments, other) and not getattr(arguments, key):
            idle |= dict.fromkeys((other, "draws", "mode"), f"no noise is added where {key} is empty")
            if not arguments.rows:
                idle["seed"] = f"nothing is random where {key} is empty, unless rows are chosen"
    return idle


def run_robustness(arguments: Any) -> None:
    """Curves of robustness and accuracy over alpha."""
    import torch

    from gapless.geometry import close_gap
    from gapless.geometry.files import load_labels, load_pair, load_sides

    _check(arguments)
    load = load_sides if arguments.labels else load_pair
    x, y, _ = load(*sources_of(arguments), arguments.rows, arguments.seed)
    transform = close_gap(x, y, arguments.method, 1.0, arguments.epsilon, moved=arguments.retrieved)
    gap = transform.text_shift if arguments.retrieved == "text" else transform.image_shift
    assert gap is not None
    queries, candidates = (x, y) if arguments.retrieved == "text" else (y, x)
    labels = load_labels(arguments.labels, len(queries), len(candidates)) if arguments.labels else torch.arange(len(x))
    curves = _noisy(arguments, queries, candidates, gap, labels) | _coded(arguments, queries, candidates, gap, labels)
    _print_curves(curves, float(transform.fit["share_of_gap"]))
    if arguments.output:
        tree = {"gap": transform.fit, "curves": {name: asdict(curve) for name, curve in curves.items()}}
        with write_whole(arguments.output) as file:  # no curves without their figure
            file.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
            _draw_curves(curves, arguments.output.with_suffix(".png"))


def _check(arguments: Any) -> None:
    """Raise an error for what cannot be measured or written, before anything is loaded."""
    noise = (arguments.noise and arguments.sigmas) or arguments.levels or arguments.codes
    for key, given in (("alphas", arguments.alphas), ("noise", noise)):
        if not given:
            raise ConfigError(f"{key}: an empty list leaves nothing to measure")
    outputs = (arguments.output, arguments.output.with_suffix(".png")) if arguments.output else ()
    if len(set(outputs)) < len(outputs):
        raise ConfigError(f"output: {arguments.output} is the name of the figure, give one that ends in .json")
    for path in outputs:
        check_file(path)
    if arguments.labels and arguments.rows:
        raise ConfigError("rows: not with labels, which are of all rows")


def _noisy(arguments: Any, queries: Any, candidates: Any, gap: Any, labels: Any) -> dict[str, Any]:
    """A curve for each family of noise and each of its deviations."""
    from rich.progress import Progress

    from gapless.geometry import robustness

    curves = {}
    jobs = [(family, sigma) for family in arguments.noise for sigma in arguments.sigmas]
    with Progress(transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task("noise", total=len(jobs) * arguments.draws)
        for family, sigma in jobs:
            curves[f"{family} {sigma:g}"] = robustness(
                queries,
                candidates,
                gap,
                arguments.alphas,
                sigma,
                arguments.draws,
                family,
                labels,
                arguments.mode,
                arguments.seed,
                lambda _: bar.advance(task),
            )
    return curves


def _coded(arguments: Any, queries: Any, candidates: Any, gap: Any, labels: Any) -> dict[str, Any]:
    """A curve for each number of levels and each code of vector indexes."""
    import torch

    from gapless.geometry import quantisation_robustness
    from gapless.geometry.robustness import quantise, quantise_binary, quantise_int8

    largest = float(torch.cat([queries, candidates + gap]).abs().max())
    codes = {"int8": partial(quantise_int8, scale=largest), "binary": quantise_binary}
    quantisers = {f"{levels} levels": partial(quantise, levels=levels) for levels in arguments.levels}
    quantisers |= {name: codes[name] for name in arguments.codes}
    return {
        name: quantisation_robustness(queries, candidates, gap, quantiser, arguments.alphas, labels)
        for name, quantiser in quantisers.items()
    }


def _print_curves(curves: dict[str, Any], share_of_gap: float) -> None:
    from gapless.report import Cell, Table

    rows = []
    for name, c in curves.items():
        for k, alpha in enumerate(c.alphas):
            values = (c.robustness[k], c.accuracy[k], c.noisy_accuracy[k])
            rows.append([Cell(name), Cell(f"{alpha:g}"), *(Cell(f"{value:.4f}") for value in values)])
    title = f"{share_of_gap:.2f} of the gap is moved at alpha 1"
    Console().print(Table(title, ["noise", "alpha", "robustness", "accuracy", "noisy accuracy"], rows).terminal())


def _draw_curves(curves: dict[str, Any], path: Path) -> None:
    from gapless.report.figures import draw_panels
    from gapless.report.panels import Panel, Series

    def series(part: str) -> list[Series]:
        return [Series(n, list(c.alphas), list(getattr(c, part)), k) for k, (n, c) in enumerate(curves.items())]

    draw_panels([Panel(part, "alpha", series(part)) for part in ("robustness", "accuracy", "noisy_accuracy")], path)
