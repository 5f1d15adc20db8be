"""``gapless robustness``: curves of nearest neighbours under noise."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser
from rich.console import Console

from gapless.cli.geometry import add_sources, sources_of
from gapless.config.arguments import AtLeastTwo, FiniteNumber, NonNegativeNumber, PositiveInteger
from gapless.errors import ConfigError
from gapless.run_folder import check_file, write_text


def add_robustness(parser: ArgumentParser) -> None:
    """What ``gapless robustness`` takes."""
    add_sources(parser)
    parser.add_argument(
        "--labels",
        type=Path,
        default=None,
        help="File (.npy) of integers (N,), the row of each query's right candidate; null takes row i for query i.",
    )
    parser.add_argument(
        "--retrieved",
        type=Literal["image", "text"],
        default="text",
        help="Modality that is searched, moved and noisy.",
    )
    parser.add_argument(
        "--method",
        type=Literal["orthogonal", "approximate", "translate"],
        default="orthogonal",
        help="Method that closes the gap (docs/closing.md).",
    )
    parser.add_argument(
        "--epsilon",
        type=NonNegativeNumber,
        default=0.05,
        help="Share of the variance that the method approximate drops.",
    )
    parser.add_argument(
        "--alphas",
        type=list[FiniteNumber],
        default=[0.0, 0.25, 0.5, 0.75, 1.0],
        help="Shares of the gap that are closed, one point of a curve each.",
    )
    parser.add_argument(
        "--sigmas",
        type=list[NonNegativeNumber],
        default=[0.025],
        help="Standard deviations of each component of the noise.",
    )
    families = Literal["gaussian", "uniform", "laplace", "rademacher", "student"]
    parser.add_argument("--noise", type=list[families], default=["gaussian"], help="Families of noise.")
    parser.add_argument(
        "--levels",
        type=list[AtLeastTwo],
        default=[],
        help="Numbers of levels on [-3, 3] that components are quantised to, each a curve of its own.",
    )
    parser.add_argument(
        "--codes",
        type=list[Literal["int8", "binary"]],
        default=[],
        help="Codes of vector indexes in place of the components, each a curve of its own.",
    )
    parser.add_argument("--draws", type=PositiveInteger, default=100, help="Number of draws of the noise.")
    parser.add_argument(
        "--mode",
        type=Literal["l2", "cosine"],
        default="l2",
        help="Nearness by distance (l2), or by cosine with moved rows of length 1.",
    )
    parser.add_argument(
        "--output", type=Path, default=None, help="File for the curves as JSON; a figure is drawn beside it."
    )


def unused_by_robustness(arguments: Any) -> dict[str, str]:
    """Arguments of a method that was not chosen, and of noise where none is added."""
    idle = {}
    if arguments.method != "approximate":
        idle["epsilon"] = f"method {arguments.method} does not use it"
    for key, other in (("noise", "sigmas"), ("sigmas", "noise")):
        if not getattr(arguments, key):
            idle |= dict.fromkeys((other, "draws", "mode"), f"no noise is added where {key} is empty")
            if not arguments.rows:
                idle["seed"] = f"nothing is random where {key} is empty, unless rows are chosen"
    return idle


def run_robustness(arguments: Any) -> None:
    """Curves of robustness and accuracy over alpha."""
    import torch
    from rich.progress import Progress

    from gapless.geometry import close_gap, quantisation_robustness, robustness
    from gapless.geometry.files import load_labels, load_pair, load_sides
    from gapless.geometry.robustness import quantise, quantise_binary, quantise_int8

    jobs = [(family, sigma) for family in arguments.noise for sigma in arguments.sigmas]
    for key, given in (("alphas", arguments.alphas), ("noise", jobs or arguments.levels or arguments.codes)):
        if not given:
            raise ConfigError(f"{key}: an empty list leaves nothing to measure")
    outputs = (arguments.output, arguments.output.with_suffix(".png")) if arguments.output else ()
    if len(set(outputs)) < len(outputs):
        raise ConfigError(f"output: {arguments.output} is the name of the figure, give one that ends in .json")
    for path in outputs:
        check_file(path)
    if arguments.labels and arguments.rows:
        raise ConfigError("rows: not with labels, which are of all rows")
    load = load_sides if arguments.labels else load_pair
    x, y, _ = load(*sources_of(arguments), arguments.rows, arguments.seed)
    transform = close_gap(x, y, arguments.method, 1.0, arguments.epsilon, moved=arguments.retrieved)
    gap = transform.text_shift if arguments.retrieved == "text" else transform.image_shift
    assert gap is not None
    queries, candidates = (x, y) if arguments.retrieved == "text" else (y, x)
    labels = load_labels(arguments.labels, len(queries), len(candidates)) if arguments.labels else torch.arange(len(x))
    curves = {}
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
    largest = float(torch.cat([queries, candidates + gap]).abs().max())
    codes = {"int8": partial(quantise_int8, scale=largest), "binary": quantise_binary}
    quantisers = {f"{levels} levels": partial(quantise, levels=levels) for levels in arguments.levels}
    quantisers |= {name: codes[name] for name in arguments.codes}
    for name, quantiser in quantisers.items():
        curves[name] = quantisation_robustness(queries, candidates, gap, quantiser, arguments.alphas, labels)
    _print_curves(curves, transform.fit)
    if arguments.output:
        tree = {"gap": transform.fit, "curves": {name: asdict(curve) for name, curve in curves.items()}}
        write_text(arguments.output, json.dumps(tree, indent=2) + "\n")
        _draw_curves(curves, arguments.output.with_suffix(".png"))


def _print_curves(curves: dict[str, Any], told: dict[str, Any]) -> None:
    from gapless.report import Cell, Table

    rows = []
    for name, c in curves.items():
        for k, alpha in enumerate(c.alphas):
            values = (c.robustness[k], c.accuracy[k], c.noisy_accuracy[k])
            rows.append([Cell(name), Cell(f"{alpha:g}"), *(Cell(f"{value:.4f}") for value in values)])
    title = f"{told['share_of_gap']:.2f} of the gap is moved at alpha 1"
    Console().print(Table(title, ["noise", "alpha", "robustness", "accuracy", "noisy accuracy"], rows).terminal())


def _draw_curves(curves: dict[str, Any], path: Path) -> None:
    from gapless.report.figures import draw_panels
    from gapless.report.panels import Panel, Series

    def series(part: str) -> list[Series]:
        return [Series(n, list(c.alphas), list(getattr(c, part)), k) for k, (n, c) in enumerate(curves.items())]

    draw_panels([Panel(part, "alpha", series(part)) for part in ("robustness", "accuracy", "noisy_accuracy")], path)
