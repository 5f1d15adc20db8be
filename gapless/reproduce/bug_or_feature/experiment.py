"""What connect-collapse-corrupt and bug-or-feature say of the space, measured on a model and on their simulations.

The model is any run or file of embeddings; without one, an emoji CLIP is trained as in the demo.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor

from gapless.config import config_file, load_config, with_changes
from gapless.errors import DataError
from gapless.geometry import close_gap, effective_dimension, gap_statistics, quantisation_robustness, robustness
from gapless.geometry.files import kept_embeddings, kept_epochs, load_pair
from gapless.geometry.robustness import FAMILIES, Robustness, quantise
from gapless.geometry.statistics import Definition
from gapless.report import Cell, Table, load_run, print_tables, write_document, write_report
from gapless.report.figures import draw_panels
from gapless.report.panels import Panel, Series
from gapless.reproduce.simulated import Simulated
from gapless.reproduce.simulations import SIMULATIONS
from gapless.run_folder import write_text
from gapless.train import run_training

logger = logging.getLogger(__name__)

PAPERS = ("connect-collapse-corrupt", "bug-or-feature")
OF_PAPER = {
    PAPERS[0]: ("mlp-collapse", "two-spans", "stable-region"),
    PAPERS[1]: ("plane", "sphere", "flat", "warm", "high-dimension", "ablation"),
}
STATISTICS = {
    "gap_length": ("length of the gap", (0.83, 0.01)),
    "gap_direction": ("cosine of two groups' gaps", (0.99, 0.00)),
    "gap_orthogonality": ("cosine of gap and image differences", (0.00, 0.06)),
    "noise_mean": ("mean of the noise", (0.00, 0.00)),
    "noise_direction": ("cosine of two pairs' noise", (0.00, 0.10)),
}
"""connect-collapse-corrupt's Table 1, mean and standard deviation, of CLIP ViT-B/32 on COCO."""
ALPHAS = (-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0)
EPSILONS = (0.01, 0.05, 0.1, 0.2)
LEVELS = (64, 128, 256, 512)
SIGMA = 0.025


def reproduce_geometry(paper: str, output: Path, source: Path | None = None, quick: bool = False) -> list[Table]:
    """Measure, simulate, and write PAPER.md, .tex, report.html and figures.

    Args:
        paper: connect-collapse-corrupt or bug-or-feature.
        output: folder of everything that is written.
        source: a run that kept embeddings, or a file of arrays image and text; None trains an emoji CLIP.
        quick: small simulations and few draws.
    """
    run = None if source and not source.is_dir() else source or emoji_model(output / "runs", quick)
    if not PartialState().is_main_process:
        return []
    file = source if run is None else kept_embeddings(run)
    assert file is not None
    x, y, _ = load_pair(file, file)
    draws = 5 if quick else 100
    if paper == PAPERS[0]:
        tables = [_statistics(x, y), *(_dimensions(run) if run else [])]
    else:
        tables = [_curves(x, y, draws), _families(x, y, draws), _epsilons(x, y, draws), _quantisation(x, y)]
    tables += _simulations(OF_PAPER[paper], output, quick)
    _write(paper, output, tables, run)
    return tables


def emoji_model(output: Path, quick: bool) -> Path:
    """The demo's start, fine-tuned with CLIP's loss in 64 dimensions: an ordinary CLIP with an ordinary gap."""
    changes = {"train": {"epochs": 1}} if quick else {}
    start = with_changes(
        load_config(config_file("emoji/pretrain.yaml")), name="pretrain", output=str(output), **changes
    )
    model = {"name": f"local-dir:{run_training(start) / 'export'}", "embed_dim": 64}
    tune = load_config(config_file("emoji/finetune.yaml"))
    return run_training(with_changes(tune, name="clip", output=str(output), model=model, **changes))


# --- connect-collapse-corrupt ------------------------------------------------------------------------------------


def _statistics(x: Tensor, y: Tensor) -> Table:
    """Table 1, by the paper's definition and by its code's."""
    group = min(100, len(x) // 3)
    definitions: tuple[Definition, ...] = ("paper", "code")
    found = {definition: gap_statistics(x, y, group, definition) for definition in definitions}
    rows = [
        [
            Cell(told),
            *(Cell(_spread(found[d][f"{name}_mean"], found[d][f"{name}_std"])) for d in found),
            Cell(_spread(*paper)),
        ]
        for name, (told, paper) in STATISTICS.items()
    ]
    note = f"Mean and standard deviation; ours over groups of {group} of {len(x)} pairs. Paper: CLIP ViT-B/32 on COCO."
    header = ["", "ours", "ours, as its code computes", "paper"]
    return Table("Table 1: the gap is a constant, orthogonal vector with noise around it", header, rows, note)


def _spread(mean: float, deviation: float) -> str:
    return f"{mean:.3f} ± {deviation:.3f}"


def _dimensions(run: Path) -> list[Table]:
    """Figure 3: effective dimensions of the model at its start and at its end."""
    rows = []
    for epoch, path in kept_epochs(run).items():
        x, y, _ = load_pair(path, path)
        numbers = (effective_dimension(x), effective_dimension(y), x.shape[1])
        rows.append([Cell(f"after epoch {epoch}"), *(Cell(str(n)) for n in numbers)])
    rows.append([Cell("paper: CLIP at initialisation"), *(Cell(str(n)) for n in (25, 230, 512))])
    return [Table("Figure 3: effective dimensions (99 %)", ["", "images", "texts", "of"], rows)]


# --- bug-or-feature ----------------------------------------------------------------------------------------------


def _gap(x: Tensor, y: Tensor, epsilon: float) -> tuple[Tensor, float]:
    """The direction of Algorithm 1 for searched texts, and its share of the gap."""
    transform = close_gap(x, y, "approximate", 1.0, epsilon)
    assert transform.text_shift is not None
    return transform.text_shift, float(transform.fit["share_of_gap"])


def _table(title: str, first: str, curves: Iterable[tuple[str, Robustness]], note: str) -> Table:
    rows = []
    for name, curve in curves:
        start, end = curve.alphas.index(0.0), curve.alphas.index(1.0)
        values = [values[k] for values in (curve.robustness, curve.accuracy) for k in (start, end)]
        rows.append([Cell(name), *(Cell(f"{value:.3f}") for value in values)])
    header = [first, "robustness, gap open", "closed", "accuracy, gap open", "closed"]
    return Table(title, header, rows, note)


def _curves(x: Tensor, y: Tensor, draws: int) -> Table:
    gap, share = _gap(x, y, 0.05)
    labels = torch.arange(len(x))
    curves = [
        (f"{sigma:g}", robustness(x, y, gap, ALPHAS, sigma, draws, labels=labels)) for sigma in (0.0125, SIGMA, 0.05)
    ]
    note = f"Image to text among {len(y)}; {share:.2f} of the gap is moved. Paper: robustness rises, accuracy stays."
    return _table("Figure 8: Gaussian noise", "deviation", curves, note)


def _families(x: Tensor, y: Tensor, draws: int) -> Table:
    gap, _ = _gap(x, y, 0.05)
    labels = torch.arange(len(x))
    curves = [(f, robustness(x, y, gap, (0.0, 1.0), SIGMA, draws, f, labels)) for f in FAMILIES]
    note = f"All with deviation {SIGMA}. Paper: the family makes no difference."
    return _table("Figure 14: families of noise", "noise", curves, note)


def _epsilons(x: Tensor, y: Tensor, draws: int) -> Table:
    labels, curves = torch.arange(len(x)), []
    for epsilon in EPSILONS:
        gap, share = _gap(x, y, epsilon)
        name = f"{epsilon:g} ({share:.2f} of the gap)"
        curves.append((name, robustness(x, y, gap, (0.0, 1.0), SIGMA, draws, labels=labels)))
    note = "Share of the texts' variance that the move may touch. Paper: below one point of accuracy lost at 0.05."
    return _table("Figures 18 and 19: Algorithm 1 by epsilon", "epsilon", curves, note)


def _quantisation(x: Tensor, y: Tensor) -> Table:
    gap, _ = _gap(x, y, 0.05)
    labels, curves = torch.arange(len(x)), []
    for levels in LEVELS:
        quantiser = partial(quantise, levels=levels)
        curves.append((str(levels), quantisation_robustness(x, y, gap, quantiser, (0.0, 0.5, 1.0), labels)))
    note = "Images and moved texts on so many levels of [-3, 3]. Paper: robustness rises as the gap closes."
    return _table("Figure 9: quantisation", "levels", curves, note)


# --- both --------------------------------------------------------------------------------------------------------


def _simulations(names: Sequence[str], output: Path, quick: bool) -> list[Table]:
    tables = []
    for name in names:
        told, function, usual, small = SIMULATIONS[name]
        logger.info("simulation %s: %s", name, told)
        found = function(**(small if quick else usual))
        draw_simulated(found, output / f"{name}.png")
        tables.append(Table(f"Simulation: {told}", ["", "ours", "paper"], simulated_rows(found)))
    return tables


def simulated_rows(found: Simulated) -> list[list[Cell]]:
    """Its numbers, and the paper's where it has them."""
    return [
        [Cell(name), Cell(f"{value:.4g}"), Cell(f"{found.published[name]:.4g}" if name in found.published else "")]
        for name, value in found.numbers.items()
    ]


def draw_simulated(found: Simulated, path: Path) -> None:
    """Its curves as a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    panels = [
        Panel(title, "", [Series(line, x, y, k) for k, (line, (x, y)) in enumerate(lines.items())])
        for title, lines in found.curves.items()
    ]
    draw_panels(panels, path)


def _write(paper: str, output: Path, tables: Sequence[Table], run: Path | None) -> None:
    path = write_document(output, paper, paper, tables)
    rows = {t.title: [[cell.text for cell in row] for row in t.rows] for t in tables}
    write_text(output / "results.json", json.dumps(rows, indent=2) + "\n")
    if run:
        try:
            write_report([load_run(run)], output / "report.html", f"{paper}: geometry", tables)
        except DataError as error:
            logger.warning("no page: %s", error)
    print_tables(tables, 100)
    logger.info("written: %s", path)
