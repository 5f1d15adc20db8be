"""``gapless gap``, ``close`` and ``robustness``: embeddings in, tables and files out."""

import json
import logging
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console

from gapless.errors import ConfigError

logger = logging.getLogger(__name__)

SHOWN = {
    "Distance": ("centroid_distance", "linear_separability", "linear_separability_centred", "relative_modality_gap"),
    "Mixing": ("mixing@1", "mixing@10", "relative_alignment", "mutual_knn@10", "cka"),
    "Cosines": ("pair_cosine", "non_pair_cosine", "cone_image", "cone_text"),
    "Spread": ("uniformity_image", "uniformity_text", "cross_uniformity", "alignment"),
    "Dimensions": (
        *("effective_dim_image", "effective_dim_text"),
        *("effective_rank_image", "effective_rank_text", "effective_rank_union"),
    ),
    "After centring": ("energy_distance", "mmd2", "gaussian_w2"),
    "Gap and noise": tuple(
        f"{name}_{told}"
        for name in ("gap_length", "gap_direction", "gap_orthogonality", "noise_mean", "noise_direction")
        for told in ("mean", "std")
    ),
}
"""What the table shows; the JSON has everything."""


def _add_sources(parser: ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", type=Path, default=None, help="A run, or a file of arrays image and text.")
    parser.add_argument("--images", type=Path, default=None, help="Images (N, D): .npy, .npz or .safetensors.")
    parser.add_argument("--texts", type=Path, default=None, help="Texts (N, D), row i of image i.")
    parser.add_argument("--rows", type=int, default=None, help="Take only so many rows, a random choice.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of every random choice.")


def _sources(arguments: Any) -> tuple[Path, Path]:
    from gapless.geometry.files import kept_embeddings

    if arguments.source is not None:
        found = kept_embeddings(arguments.source)
        return found, found
    if arguments.images is None or arguments.texts is None:
        raise ConfigError("SOURCE: name a run or a file of arrays image and text, or give --images and --texts")
    return arguments.images, arguments.texts


# --- gap ---------------------------------------------------------------------------------------------------------


def add_gap(parser: ArgumentParser) -> None:
    """What ``gapless gap`` takes."""
    _add_sources(parser)
    parser.add_argument("--gamma", type=float, default=0.99, help="Share of the variance in the effective dimensions.")
    parser.add_argument("--definition", type=str, default="paper", help="Of the gap statistics: paper, or code.")
    parser.add_argument("--bootstrap", type=int, default=0, help="Resamples for 95 % intervals of what sums decide.")
    parser.add_argument("--before", type=Path, default=None, help="The same before closing, to tell a collapse.")
    parser.add_argument("--json", action="store_true", help="Print everything as JSON instead of a table.")
    parser.add_argument("--output", type=Path, default=None, help="Write everything as JSON.")
    parser.add_argument("--report", type=Path, default=None, help="Folder for figures: cosines, spectra, map.")


def run_gap(arguments: Any) -> None:
    """Measure, print, write."""
    from gapless.eval import retrieval_recall
    from gapless.geometry import bootstrap_gap, gap_verdict, whole_gap
    from gapless.geometry.files import kept_embeddings, load_sides

    if arguments.definition not in ("paper", "code"):
        raise ConfigError(f"--definition: {arguments.definition!r} is not one of paper, code")
    if not 0 < arguments.gamma <= 1:
        raise ConfigError(f"--gamma: {arguments.gamma} does not work, it must be above 0 and at most 1")
    x, y, normalised = load_sides(*_sources(arguments), arguments.rows, arguments.seed)
    for path in normalised:
        logger.info("%s: rows normalised to length 1", path)
    options = {"gamma": arguments.gamma, "definition": arguments.definition, "seed": arguments.seed}
    scores: dict[str, Any] = {"num_images": len(x), "num_texts": len(y), "dimension": x.shape[1]}
    scores |= whole_gap(x, y, **options)
    intervals: dict[str, tuple[float, float]] = {}
    if len(x) == len(y):
        scores |= retrieval_recall(x, y)
        before = None
        if arguments.before:
            file = kept_embeddings(arguments.before)
            before = whole_gap(*load_sides(file, file, arguments.rows, arguments.seed)[:2], **options)
        scores["verdict"], scores["checks"] = gap_verdict(scores, before)
        if arguments.bootstrap:
            intervals = bootstrap_gap(x, y, arguments.bootstrap, seed=arguments.seed)
    else:
        logger.info("%d images and %d texts are no pairs: only what needs none is measured", len(x), len(y))
    tree = scores | {"intervals": {n: list(ends) for n, ends in intervals.items()}, "normalised": bool(normalised)}
    if arguments.json:
        print(json.dumps(tree, indent=2))
    else:
        _print_gap(scores, intervals)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(tree, indent=2) + "\n")
    if arguments.report:
        _draw(x, y, arguments.report)


def _print_gap(scores: dict[str, Any], intervals: dict[str, tuple[float, float]]) -> None:
    from rich.table import Table

    told = f"{scores['num_images']} images, {scores['num_texts']} texts, {scores['dimension']} dimensions"
    table = Table(told, "", box=None)
    table.columns[1].justify = "right"
    for section, names in SHOWN.items():
        found = [name for name in names if name in scores]
        if found:
            table.add_row(f"[bold]{section}[/]", "")
        for name in found:
            ends = "" if name not in intervals else " [dim][{:.3f}, {:.3f}][/]".format(*intervals[name])
            table.add_row(f"  {name}", f"{scores[name]:.4f}{ends}")
    Console().print(table)
    if "verdict" in scores:
        print(f"the gap is {scores['verdict']}")
        for name, told in scores["checks"].items():
            print(f"  {name} {told}")


def _draw(x: Any, y: Any, folder: Path) -> None:
    import torch

    from gapless.eval import PairFeatures
    from gapless.report.figures import draw_panels, embedding_maps
    from gapless.report.panels import cosines, spectra

    folder.mkdir(parents=True, exist_ok=True)
    features = PairFeatures(x, y, torch.arange(len(x)), [])
    panels = spectra(features)
    if len(x) == len(y):
        panels.insert(0, cosines("cosines", features))
    for suffix in (".png", ".pdf"):
        draw_panels(panels, folder / f"gap{suffix}")
        embedding_maps({"": (x[:2000], y[:2000])}, {}, folder / f"map{suffix}")
    print(f"figures in {folder}")


# --- close -------------------------------------------------------------------------------------------------------


def add_close(parser: ArgumentParser) -> None:
    """What ``gapless close`` takes."""
    _add_sources(parser)
    parser.add_argument(
        "--method", type=str, default="mean", help="mean, translate, orthogonal, approximate, procrustes, standardise."
    )
    parser.add_argument("--alpha", type=float, default=1.0, help="How much of the gap is closed; below 0 widens.")
    parser.add_argument(
        "--epsilon", type=float, default=0.05, help="approximate: share of the variance that is dropped."
    )
    parser.add_argument("--reading", type=str, default="cumulative", help="Of epsilon: cumulative, relative, absolute.")
    parser.add_argument("--moved", type=str, default="text", help="The modality that is retrieved, and moved.")
    parser.add_argument("--apply", type=Path, default=None, help="Other embeddings that the map is applied to.")
    parser.add_argument("--renormalise", action="store_true", help="Give moved rows length 1 again.")
    parser.add_argument("--output", type=Path, required=True, help="The transform, .safetensors.")
    parser.add_argument("--moved_output", type=Path, default=None, help="Also write moved embeddings, .safetensors.")


def run_close(arguments: Any) -> None:
    """Fit, apply, print before and after."""
    from safetensors.torch import save_file

    from gapless.geometry import close_gap
    from gapless.geometry.files import kept_embeddings, load_sides

    for flag, value, words in (
        ("moved", arguments.moved, ("image", "text")),
        ("reading", arguments.reading, ("cumulative", "relative", "absolute")),
    ):
        if value not in words:
            raise ConfigError(f"--{flag}: {value!r} is not one of {', '.join(words)}")
    for path in filter(None, (arguments.output, arguments.moved_output)):
        if path.suffix != ".safetensors":
            raise ConfigError(f"{path} must end in .safetensors")
    x, y, _ = load_sides(*_sources(arguments), arguments.rows, arguments.seed)
    settings = (arguments.method, arguments.alpha, arguments.epsilon, arguments.reading, arguments.moved)
    transform = close_gap(x, y, *settings)
    transform.save(arguments.output)
    if arguments.apply:
        file = kept_embeddings(arguments.apply)
        x, y, _ = load_sides(file, file, arguments.rows, arguments.seed)
    moved = transform.image(x, arguments.renormalise), transform.text(y, arguments.renormalise)
    if arguments.moved_output:
        save_file({"image": moved[0].contiguous(), "text": moved[1].contiguous()}, arguments.moved_output)
    _print_closing((x, y), moved, bool(arguments.apply))
    told = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in transform.told.items())
    print(f"{arguments.output}: {transform.method}{f' ({told})' if told else ''}")


def _print_closing(before: tuple[Any, Any], after: tuple[Any, Any], applied: bool) -> None:
    from gapless.eval import retrieval_recall
    from gapless.geometry import centroid_distance, linear_separability
    from gapless.report import Column, score_table

    rows: dict[str, dict[str, float]] = {}
    for name, (x, y) in (("before", before), ("after", after)):
        rows[name] = {"distance": centroid_distance(x, y), "separability": linear_separability(x, y)}
        if len(x) == len(y):
            rows[name] |= retrieval_recall(x, y)
    columns = [Column("distance", "centroid distance"), Column("separability", "linear separability")]
    columns += [Column(f"{side}_retrieval_recall@1", f"{side} R@1 by cosine") for side in ("image", "text")]
    title = "On the embeddings of --apply" if applied else "On the embeddings that it was fitted on"
    Console().print(score_table(rows, columns, title).terminal())


# --- robustness --------------------------------------------------------------------------------------------------


def add_noise(parser: ArgumentParser) -> None:
    """What ``gapless robustness`` takes."""
    _add_sources(parser)
    parser.add_argument(
        "--labels",
        type=Path,
        default=None,
        help="The right candidate's row of each query, integers (N,), .npy; null takes row i for query i.",
    )
    parser.add_argument("--retrieved", type=str, default="text", help="The modality that is searched, moved and noisy.")
    parser.add_argument("--method", type=str, default="orthogonal", help="orthogonal, approximate or translate.")
    parser.add_argument(
        "--epsilon", type=float, default=0.05, help="approximate: share of the variance that is dropped."
    )
    parser.add_argument("--alphas", type=list[float], default=[0.0, 0.25, 0.5, 0.75, 1.0], help="How far it is moved.")
    parser.add_argument("--sigmas", type=list[float], default=[0.025], help="Deviations of a component of the noise.")
    parser.add_argument(
        "--noise", type=list[str], default=["gaussian"], help="gaussian, uniform, laplace, rademacher, student."
    )
    parser.add_argument("--levels", type=list[int], default=[], help="Also quantisation to so many levels on [-3, 3].")
    parser.add_argument("--codes", type=list[str], default=[], help="Also codes of vector indexes: int8, binary.")
    parser.add_argument("--draws", type=int, default=100, help="Draws of the noise.")
    parser.add_argument("--mode", type=str, default="l2", help="l2, or cosine with moved rows of length 1.")
    parser.add_argument("--output", type=Path, default=None, help="Write the curves as JSON, and a figure beside it.")


def run_noise(arguments: Any) -> None:
    """Curves of robustness and accuracy over alpha."""
    import torch
    from rich.progress import Progress

    from gapless.geometry import close_gap, quantisation_robustness, robustness
    from gapless.geometry.files import load_labels, load_pair, load_sides
    from gapless.geometry.robustness import FAMILIES, quantise, quantise_binary, quantise_int8

    for flag, given, known in (("noise", arguments.noise, FAMILIES), ("codes", arguments.codes, ("int8", "binary"))):
        wrong = [name for name in given if name not in known]
        if wrong:
            raise ConfigError(f"--{flag}: {wrong[0]!r} is not one of {', '.join(known)}")
    for flag, value, words in (
        ("retrieved", arguments.retrieved, ("image", "text")),
        ("method", arguments.method, ("orthogonal", "approximate", "translate")),
        ("mode", arguments.mode, ("l2", "cosine")),
    ):
        if value not in words:
            raise ConfigError(f"--{flag}: {value!r} is not one of {', '.join(words)}")
    if arguments.labels and arguments.rows:
        raise ConfigError("--rows: not with --labels, which are of all rows")
    load = load_sides if arguments.labels else load_pair
    x, y, _ = load(*_sources(arguments), arguments.rows, arguments.seed)
    transform = close_gap(x, y, arguments.method, 1.0, arguments.epsilon, moved=arguments.retrieved)
    gap = transform.text_shift if arguments.retrieved == "text" else transform.image_shift
    assert gap is not None
    queries, candidates = (x, y) if arguments.retrieved == "text" else (y, x)
    labels = load_labels(arguments.labels, len(queries), len(candidates)) if arguments.labels else torch.arange(len(x))
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
    largest = float(torch.cat([queries, candidates + gap]).abs().max())
    codes = {"int8": partial(quantise_int8, scale=largest), "binary": quantise_binary}
    quantisers = {f"{levels} levels": partial(quantise, levels=levels) for levels in arguments.levels}
    quantisers |= {name: codes[name] for name in arguments.codes}
    for name, quantiser in quantisers.items():
        curves[name] = quantisation_robustness(queries, candidates, gap, quantiser, arguments.alphas, labels)
    _print_curves(curves, transform.told)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        tree = {"gap": transform.told, "curves": {name: asdict(curve) for name, curve in curves.items()}}
        arguments.output.write_text(json.dumps(tree, indent=2) + "\n")
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


# --- simulate ----------------------------------------------------------------------------------------------------


def add_simulate(parser: ArgumentParser) -> None:
    """What ``gapless simulate`` takes."""
    parser.add_argument("names", nargs="*", type=str, help="Simulations; none lists them, all runs all.")
    parser.add_argument("--small", action="store_true", help="Settings of seconds, for a first look.")
    parser.add_argument("--output", type=Path, default=Path("runs/simulate"), help="Folder of figures and JSON.")


def run_simulate(arguments: Any) -> None:
    """Run, print beside the paper's numbers, write and draw."""
    from rich.progress import Progress

    from gapless.geometry.simulate import SIMULATIONS
    from gapless.report import Table
    from gapless.reproduce.geometry import draw_simulated, simulated_rows

    names = list(SIMULATIONS) if arguments.names == ["all"] else arguments.names
    if not names:
        print("\n".join(f"{name:<16} {told}" for name, (told, *_) in SIMULATIONS.items()))
        return
    unknown = [name for name in names if name not in SIMULATIONS]
    if unknown:
        raise ConfigError(f"SIMULATION: {unknown[0]!r} is not one of all, {', '.join(SIMULATIONS)}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name in names:
        told, function, usual, small = SIMULATIONS[name]
        settings: dict[str, Any] = dict(small if arguments.small else usual)
        with Progress(transient=True, console=Console(stderr=True)) as bar:
            task = bar.add_task(name, total=1.0)
            found = function(**settings, progress=partial(_advance, bar, task))
        tree = {"simulation": name, "settings": settings, "numbers": found.numbers, "published": found.published}
        (arguments.output / f"{name}.json").write_text(json.dumps(tree, indent=2) + "\n")
        draw_simulated(found, arguments.output / f"{name}.png")
        print(told)
        Console().print(Table("", ["", "ours", "paper"], simulated_rows(found)).terminal())
    print(f"figures and numbers in {arguments.output}")


def _advance(bar: Any, task: Any, share: float) -> None:
    bar.update(task, completed=share)
