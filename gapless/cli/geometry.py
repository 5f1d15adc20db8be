"""``gapless gap`` and ``close``: embeddings in, tables and files out."""

import json
import logging
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser
from rich.console import Console

from gapless.config.arguments import (
    FiniteNumber,
    FractionAboveZero,
    NonNegativeInteger,
    NonNegativeNumber,
    PositiveInteger,
    Seed,
)
from gapless.errors import ConfigError, DataError
from gapless.measures import measure_of
from gapless.run_folder import check_file, write_text, write_whole

logger = logging.getLogger(__name__)

SHOWN = (
    *("centroid_distance", "linear_separability", "relative_modality_gap"),
    *("mixing@1", "mixing@10", "relative_alignment", "mutual_knn@10", "cka"),
    *("pair_cosine", "non_pair_cosine", "cone_image", "cone_text"),
    *("uniformity_image", "uniformity_text", "cross_uniformity", "alignment"),
    *("effective_dim_image", "effective_dim_text"),
    *("effective_rank_image", "effective_rank_text", "effective_rank_union"),
    *("energy_distance", "mmd2", "gaussian_w2"),
    *(
        f"{name}_{part}"
        for name in ("gap_length", "gap_direction", "gap_orthogonality", "noise_mean", "noise_direction")
        for part in ("mean", "std")
    ),
)
"""What the table shows, by section; the JSON has everything."""
FIGURES = ("gap.png", "gap.pdf", "map.png", "map.pdf")


def add_sources(parser: ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="?",
        type=Path,
        default=None,
        help="Run that kept its embeddings, or file of arrays named image and text.",
    )
    parser.add_argument(
        "--images", type=Path, default=None, help="File of image embeddings (N, D): .npy, .npz or .safetensors."
    )
    parser.add_argument(
        "--texts", type=Path, default=None, help="File of text embeddings (N, D), whose row i belongs to image i."
    )
    parser.add_argument(
        "--rows",
        type=PositiveInteger | None,
        default=None,
        help="Number of rows that are taken, a random choice; null for all.",
    )
    parser.add_argument("--seed", type=Seed, default=0, help="Seed of every random choice.")


def sources_of(arguments: Any) -> tuple[Path, Path]:
    from gapless.geometry.files import kept_embeddings

    if arguments.source is not None:
        if arguments.images is not None or arguments.texts is not None:
            raise ConfigError("SOURCE: it has both sides, so it comes alone or --images and --texts do")
        file = kept_embeddings(arguments.source)
        return file, file
    if arguments.images is None or arguments.texts is None:
        raise ConfigError("SOURCE: name a run or a file of arrays image and text, or give --images and --texts")
    return arguments.images, arguments.texts


def add_gap(parser: ArgumentParser) -> None:
    """What ``gapless gap`` takes."""
    add_sources(parser)
    parser.add_argument(
        "--gamma",
        type=FractionAboveZero,
        default=0.99,
        help="Share of the variance that the effective dimensions hold.",
    )
    parser.add_argument(
        "--definition",
        type=Literal["paper", "code"],
        default="paper",
        help="Definition of the gap statistics: by the paper's text, or by its code.",
    )
    parser.add_argument(
        "--bootstrap",
        type=NonNegativeInteger,
        default=0,
        help="Resamples of the pairs for 95 % intervals of centroid distance, alignment and mean cosines; 0 for none.",
    )
    parser.add_argument(
        "--before",
        type=Path,
        default=None,
        help="Embeddings before the gap was closed, as run or file; with them the verdict can see a collapse.",
    )
    parser.add_argument("--json", action="store_true", help="Print everything as JSON instead of a table.")
    parser.add_argument("--output", type=Path, default=None, help="File for everything as JSON.")
    parser.add_argument("--report", type=Path, default=None, help="Folder for figures: cosines, spectra and a map.")


def run_gap(arguments: Any) -> None:
    """Measure, print, write."""
    from gapless.eval import retrieval_recall
    from gapless.geometry import bootstrap_gap, gap_verdict, whole_gap
    from gapless.geometry.files import kept_embeddings, load_sides

    figures = [arguments.report / name for name in FIGURES] if arguments.report else []
    for path in filter(None, (arguments.output, *figures)):
        check_file(path)
    x, y, normalised = load_sides(*sources_of(arguments), arguments.rows, arguments.seed)
    earlier = None
    if arguments.before:
        file = kept_embeddings(arguments.before)
        earlier = load_sides(file, file, arguments.rows, arguments.seed)[:2]
    for key in ("before", "bootstrap"):
        if getattr(arguments, key) and len(x) != len(y):
            raise DataError(f"{key}: needs pairs, but there are {len(x)} images and {len(y)} texts")
    for path in normalised:
        logger.info("%s: rows normalised to length 1", path)
    options = {"gamma": arguments.gamma, "definition": arguments.definition, "seed": arguments.seed}
    scores: dict[str, Any] = {"num_images": len(x), "num_texts": len(y), "dimension": x.shape[1]}
    scores |= whole_gap(x, y, **options)
    intervals: dict[str, tuple[float, float]] = {}
    if len(x) == len(y):
        scores |= retrieval_recall(x, y)
        scores["verdict"], scores["checks"] = gap_verdict(scores, earlier and whole_gap(*earlier, **options))
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
        write_text(arguments.output, json.dumps(tree, indent=2) + "\n")
    if arguments.report:
        _draw(x, y, arguments.report)


def _print_gap(scores: dict[str, Any], intervals: dict[str, tuple[float, float]]) -> None:
    from rich.table import Table

    sizes = f"{scores['num_images']} images, {scores['num_texts']} texts, {scores['dimension']} dimensions"
    table = Table(sizes, "", box=None)
    table.columns[1].justify = "right"
    shown = [name for name in SHOWN if name in scores]
    for section, names in groupby(shown, lambda name: measure_of(name).section):
        table.add_row(f"[bold]{section}[/]", "")
        for name in names:
            ends = "" if name not in intervals else " [dim][{:.3f}, {:.3f}][/]".format(*intervals[name])
            table.add_row(f"  {name}", f"{scores[name]:.4f}{ends}")
    Console().print(table)
    if "verdict" in scores:
        print(f"the gap is {scores['verdict']}")
        for name, outcome in scores["checks"].items():
            print(f"  {name} {outcome}")


def _draw(x: Any, y: Any, folder: Path) -> None:
    import torch

    from gapless.eval import Embeddings
    from gapless.report.figures import draw_panels, embedding_maps
    from gapless.report.panels import cosines, spectra

    features = Embeddings(x, y, torch.arange(len(x)), [])
    panels = spectra(features)
    if len(x) == len(y):
        panels.insert(0, cosines("cosines", features))
    for name in FIGURES:
        if name.startswith("gap"):
            draw_panels(panels, folder / name)
        else:
            embedding_maps({"": (x[:2000], y[:2000])}, {}, folder / name)
    print(f"figures in {folder}")


def add_close(parser: ArgumentParser) -> None:
    """What ``gapless close`` takes."""
    add_sources(parser)
    methods = Literal["mean", "translate", "orthogonal", "approximate", "procrustes", "standardise"]
    parser.add_argument("--method", type=methods, default="mean", help="Method that fits the map (docs/closing.md).")
    parser.add_argument(
        "--alpha", type=FiniteNumber, default=1.0, help="Share of the gap that is closed; below 0 it is widened."
    )
    parser.add_argument(
        "--epsilon",
        type=NonNegativeNumber,
        default=0.05,
        help="Share of the variance that the method approximate drops.",
    )
    parser.add_argument(
        "--reading",
        type=Literal["cumulative", "relative", "absolute"],
        default="cumulative",
        help="Reading of epsilon in the method approximate (docs/closing.md).",
    )
    parser.add_argument(
        "--moved", type=Literal["image", "text"], default="text", help="Modality that is retrieved, and moved."
    )
    parser.add_argument(
        "--apply", type=Path, default=None, help="Other embeddings that the map is applied to, as run or file."
    )
    parser.add_argument("--renormalise", action="store_true", help="Give moved rows length 1 again.")
    parser.add_argument("--output", type=Path, required=True, help="File for the map, .safetensors.")
    parser.add_argument(
        "--moved_output", type=Path, default=None, help="File for the moved embeddings, .safetensors; null writes none."
    )


def unused_by_close(arguments: Any) -> dict[str, str]:
    """Arguments that the method, or the command without a random choice, does not look at."""
    from gapless.geometry.closing import METHODS

    idle = {
        key: f"method {arguments.method} does not use it"
        for key in ("alpha", "epsilon", "reading", "moved")
        if key not in METHODS[arguments.method].arguments
    }
    return idle if arguments.rows else idle | {"seed": "nothing is random unless rows are chosen"}


def run_close(arguments: Any) -> None:
    """Fit, apply, print before and after."""
    from safetensors.torch import save_file

    from gapless.geometry import close_gap
    from gapless.geometry.files import kept_embeddings, load_sides

    images, texts = sources_of(arguments)
    _check_outputs((arguments.output, arguments.moved_output), (images, texts, arguments.apply))
    x, y, _ = load_sides(images, texts, arguments.rows, arguments.seed)
    settings = (arguments.method, arguments.alpha, arguments.epsilon, arguments.reading, arguments.moved)
    transform = close_gap(x, y, *settings)
    if arguments.apply:
        file = kept_embeddings(arguments.apply)
        x, y, _ = load_sides(file, file, arguments.rows, arguments.seed)
    moved = transform.image(x, arguments.renormalise), transform.text(y, arguments.renormalise)
    if arguments.moved_output:
        with write_whole(arguments.moved_output) as file:  # both files or none
            save_file({"image": moved[0].contiguous(), "text": moved[1].contiguous()}, file)
            transform.save(arguments.output)
    else:
        transform.save(arguments.output)
    _print_closing((x, y), moved, bool(arguments.apply))
    fit = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in transform.fit.items())
    print(f"{arguments.output}: {transform.method}{f' ({fit})' if fit else ''}")


def _check_outputs(outputs: Sequence[Path | None], inputs: Sequence[Path | None]) -> None:
    """Files that can be written and replace neither each other nor what is read."""
    taken = {path.resolve() for path in inputs if path}
    for path in filter(None, outputs):
        if path.suffix != ".safetensors":
            raise ConfigError(f"{path} must end in .safetensors")
        if path.resolve() in taken:
            raise ConfigError(f"{path} is read or written already, give another name")
        taken.add(path.resolve())
        check_file(path)


def _print_closing(before: tuple[Any, Any], after: tuple[Any, Any], applied: bool) -> None:
    from gapless.eval import retrieval_recall
    from gapless.geometry import centroid_distance, linear_separability
    from gapless.report import Column, column_of, score_table

    rows: dict[str, dict[str, float]] = {}
    for name, (x, y) in (("before", before), ("after", after)):
        rows[name] = {"centroid_distance": centroid_distance(x, y), "linear_separability": linear_separability(x, y)}
        if len(x) == len(y):
            rows[name] |= retrieval_recall(x, y)
    # Nothing is chosen between the two, and no value is marked.
    columns = [column_of(name)._replace(better="") for name in ("centroid_distance", "linear_separability")]
    columns += [Column(f"{side}_retrieval_recall@1", f"{side} R@1 by cosine") for side in ("image", "text")]
    title = "On the embeddings of --apply" if applied else "On the embeddings that it was fitted on"
    Console().print(score_table(rows, columns, title).terminal())
