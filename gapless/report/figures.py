"""Figures for papers, drawn with matplotlib."""

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from gapless.geometry.spectrum import principal_axes
from gapless.report.panels import Panel, style
from gapless.run_folder import write_whole

IMAGE_COLOR, TEXT_COLOR = "#0072B2", "#D55E00"
"""Okabe and Ito's blue and vermilion, which colour-blind readers tell apart."""

PER_ROW = 4
"""Charts beside each other."""
DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
"""matplotlib's names of plotly's."""

Clouds = Mapping[str, tuple[Tensor, Tensor]]


def embedding_maps(clouds: Clouds, captions: Mapping[str, str], path: Path, links: int = 60) -> None:
    """One map for each model: images and texts on the first two principal components of both together.

    Args:
        clouds: image and text features, unit-norm (N, D), by the model's name.
        captions: a line below each map.
        path: of the picture; its ending decides the format.
        links: pairs that are joined by a line.
    """
    width = min(len(clouds), PER_ROW)
    height = -(-len(clouds) // width)
    with matplotlib.rc_context({"font.size": 9, "axes.edgecolor": "0.8"}):
        figure = Figure(figsize=(3.3 * width, 0.5 + 3.4 * height), layout="constrained")
        places = iter(figure.subplots(height, width, squeeze=False).flat)
        for (name, (images, texts)), axes in zip(clouds.items(), places, strict=False):
            points = torch.cat([images, texts]).double()
            x, y = ((points - points.mean(dim=0)) @ principal_axes(points)[1][:, :2]).T
            n = len(images)
            for i in range(0, n, max(1, n // links)):
                axes.plot(x[[i, n + i]], y[[i, n + i]], color="0.75", linewidth=0.5, zorder=1)
            axes.scatter(
                x[:n], y[:n], s=9, color=IMAGE_COLOR, marker="o", linewidths=0, alpha=0.8, label="images", zorder=2
            )
            axes.scatter(
                x[n:], y[n:], s=11, color=TEXT_COLOR, marker="^", linewidths=0, alpha=0.8, label="texts", zorder=2
            )
            limit = float(torch.stack([x.abs().max(), y.abs().max()]).max()) * 1.08
            axes.set_title(name, parse_math=False)
            axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
            axes.set_xlabel(captions.get(name, ""), parse_math=False)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, markerscale=1.8)
        for unused in places:
            unused.axis("off")
        _save(figure, path)


def draw_panels(panels: Sequence[Panel], path: Path) -> None:
    """Charts side by side, with one legend for all.

    Args:
        panels: at least one.
        path: of the picture; its ending decides the format.
    """
    width = min(len(panels), PER_ROW)
    height = -(-len(panels) // width)
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(3.3 * width, 0.4 + 2.6 * height), layout="constrained")
        places = iter(figure.subplots(height, width, squeeze=False).flat)
        named: dict[str, Line2D] = {}
        for panel, axes in zip(panels, places, strict=False):
            for series in panel.series:
                color, dash = style(series.style)
                look = {"color": color, "linestyle": DASHES[dash], "linewidth": 1.3}
                (line,) = axes.plot(series.x, series.y, marker="o" if len(series.x) == 1 else None, **look)
                named.setdefault(series.name, line)
                if series.filled:
                    axes.fill_between(series.x, series.y, color=color, alpha=0.25, linewidth=0)
            axes.set_title(panel.title, parse_math=False)
            axes.set(xlabel=panel.x_title, ylim=panel.y_range)
        for unused in places:
            unused.axis("off")
        if len(named) > 1:
            ncols = min(len(named), 2 * width)
            # matplotlib leaves out names that begin with an underscore.
            names = [f" {name}" if name.startswith("_") else name for name in named]
            legend = figure.legend(list(named.values()), names, loc="outside upper center", ncols=ncols, frameon=False)
            for text in legend.get_texts():
                text.set_parse_math(False)
        _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    drawn = io.BytesIO()  # on a full disk the backends raise what they like
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # names in scripts without a font
        figure.savefig(drawn, format=path.suffix[1:], dpi=150)
    with write_whole(path) as temporary:
        temporary.write_bytes(drawn.getvalue())
