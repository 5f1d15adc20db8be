"""connect-collapse-corrupt's geometry: Table 1 and Figure 3, measured on a space."""

from pathlib import Path

from torch import Tensor

from gapless.geometry import effective_dimension, gap_statistics
from gapless.geometry.files import kept_epochs, load_pair
from gapless.geometry.statistics import Definition
from gapless.measures import measure_of
from gapless.report import Cell, Table
from gapless.reproduce.connect_collapse_corrupt.published import INITIAL_DIMENSIONS, STATISTICS


def geometry_tables(x: Tensor, y: Tensor, run: Path | None) -> list[Table]:
    """What the paper says of a space.

    Args:
        x: unit-norm images (N, D).
        y: unit-norm texts (N, D), row i of image i.
        run: that kept embeddings; None for a space of no run, which has no epochs.
    """
    return [_statistics(x, y), *([_dimensions(run)] if run else [])]


def _statistics(x: Tensor, y: Tensor) -> Table:
    """Table 1, by the paper's definition and by its code's."""
    group = min(100, len(x) // 3)
    definitions: tuple[Definition, ...] = ("paper", "code")
    ours = {definition: gap_statistics(x, y, group, definition) for definition in definitions}
    rows = [
        [
            Cell(measure_of(f"{name}_mean").title),
            *(Cell(_spread(ours[d][f"{name}_mean"], ours[d][f"{name}_std"])) for d in definitions),
            Cell(_spread(*paper)),
        ]
        for name, paper in STATISTICS.items()
    ]
    note = f"Mean and standard deviation; ours over groups of {group} of {len(x)} pairs. Paper: CLIP ViT-B/32 on COCO."
    header = ["", "ours", "ours, as its code computes", "paper"]
    return Table("Table 1: the gap is a constant, orthogonal vector with noise around it", header, rows, note)


def _spread(mean: float, deviation: float) -> str:
    return f"{mean:.3f} ± {deviation:.3f}"


def _dimensions(run: Path) -> Table:
    """Figure 3: effective dimensions of the model at its start and at its end."""
    rows = []
    for epoch, path in kept_epochs(run).items():
        x, y, _ = load_pair(path, path)
        numbers = (effective_dimension(x), effective_dimension(y), x.shape[1])
        rows.append([Cell(f"after epoch {epoch}"), *(Cell(str(n)) for n in numbers)])
    rows.append([Cell("paper: CLIP at initialisation"), *(Cell(str(n)) for n in INITIAL_DIMENSIONS)])
    return Table("Figure 3: effective dimensions (99 %)", ["", "images", "texts", "of"], rows)
