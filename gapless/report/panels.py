"""Charts as plain data: what is drawn, before it is decided whether plotly or matplotlib draws it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gapless.eval import Embeddings
from gapless.geometry import explained_variance
from gapless.report.escaping import chart
from gapless.report.runs import RunRecord

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
"""Okabe and Ito's, which colour-blind readers tell apart; black and yellow are left out, pages are dark or light."""
DASHES = ("solid", "dash", "dot", "dashdot")
MAIN = (
    "val/centroid_distance",
    "val/linear_separability",
    "val/uniformity",
    "val/cross_uniformity",
    "val/alignment",
    "val/image_retrieval_recall@1",
    "val/text_retrieval_recall@1",
    "train/loss",
)
"""Metrics whose curves come first."""
HIDDEN = ("train/data_time", "train/samples_per_second", "val/seconds", "val/num_samples")
NON_PAIRS = 1024
"""Pairs whose images and texts all meet in the histogram of non-pairs."""
BINS = 60


class Series(NamedTuple):
    """A line."""

    name: str
    x: list[float]
    y: list[float]
    style: int
    """Number of its colour and dash: one for each run."""
    filled: bool = False


@dataclass(frozen=True)
class Panel:
    """A chart of lines."""

    title: str
    x_title: str
    series: Sequence[Series]
    y_range: tuple[float, float] | None = None
    """None for what the values need."""


def style(number: int) -> tuple[str, str]:
    """Colour and dash of a run."""
    return COLORS[number % len(COLORS)], DASHES[number // len(COLORS) % len(DASHES)]


def curves(runs: Sequence[RunRecord]) -> Iterator[Panel]:
    """Every logged metric by epoch, the runs over each other; the main ones first."""
    names = dict.fromkeys(name for run in runs for name in run.metrics if name not in HIDDEN)
    for name in [*(n for n in MAIN if n in names), *(n for n in names if n not in MAIN)]:
        lines = [(k, run.name, run.curve(name)) for k, run in enumerate(runs)]
        series = [Series(run, [e for e, _ in c], [v for _, v in c], k) for k, run, c in lines if c]
        if series:
            yield Panel(name, "epoch", series, (0.45, 1.02) if name.endswith("linear_separability") else None)


def variance(features: Mapping[str, Embeddings], order: Sequence[str]) -> list[Panel]:
    """Cumulative explained variance of images, of texts, and the mean of both (the contrastive-gap paper's Fig. 2).

    Args:
        features: of each run.
        order: names of all runs, which decides their colours.
    """
    shares = {n: (explained_variance(f.image), explained_variance(f.text)) for n, f in features.items()}
    sides = {
        "images": {n: image for n, (image, _) in shares.items()},
        "texts": {n: text for n, (_, text) in shares.items()},
        "mean of both": {n: (image + text) / 2 for n, (image, text) in shares.items()},
    }

    def line(name: str, share: Tensor) -> Series:
        total = [0.0, *(round(v, 5) for v in share.cumsum(0).tolist())]
        return Series(name, [float(k) for k in range(len(total))], total, order.index(name))

    return [
        Panel(f"cumulative explained variance, {side}", "components", [line(n, s) for n, s in each.items()], (0, 1.02))
        for side, each in sides.items()
    ]


def spectra(features: Embeddings) -> list[Panel]:
    """Singular values of both centred clouds, and their cumulative explained variance."""
    values, totals = [], []
    for number, (name, side) in enumerate((("images", features.image), ("texts", features.text))):
        share = explained_variance(side)
        at = [float(k + 1) for k in range(len(share))]
        logs = (share.clamp(min=1e-16) / share[0].clamp(min=1e-16)).log10() / 2
        values.append(Series(name, at, logs.tolist(), number))
        totals.append(Series(name, at, share.cumsum(0).tolist(), number))
    return [
        Panel("singular values (log10, of the largest)", "component", values),
        Panel("cumulative explained variance", "components", totals, (0, 1.02)),
    ]


def cosines(name: str, features: Embeddings) -> Panel:
    """Histogram (density) of the cosines of pairs and of non-pairs."""
    pairs = (features.image * features.text).sum(dim=1)
    x, y = features.image[:NON_PAIRS], features.text[:NON_PAIRS]
    others = (x @ y.T)[~torch.eye(len(x), dtype=torch.bool)]
    low, high = float(min(pairs.min(), others.min())), float(max(pairs.max(), others.max()))
    high = max(high, low + 1e-3)
    centres = torch.linspace(low, high, 2 * BINS + 1)[1::2].tolist()

    def line(label: str, values: Tensor, number: int) -> Series:
        density = torch.histc(values.float(), BINS, low, high) * BINS / ((high - low) * len(values))
        return Series(label, [round(c, 4) for c in centres], [round(v, 4) for v in density.tolist()], number, True)

    return Panel(name, "cosine", [line("pairs", pairs, 0), line("non-pairs", others, 1)])


def as_plotly(panel: Panel) -> dict[str, Any]:
    """The chart as plotly draws it."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for series in panel.series:
        color, dash = style(series.style)
        figure.add_scatter(
            x=series.x,
            y=series.y,
            name=chart(series.name),
            # A single value, as before the first step, is a point.
            mode="lines" if len(series.x) > 1 else "markers",
            fill="tozeroy" if series.filled else None,
            line={"color": color, "dash": dash, "width": 1.8},
        )
    # The page's head names the runs' colours.
    figure.update_layout(template=None, showlegend=any(series.filled for series in panel.series))
    figure.update_xaxes(title=panel.x_title)
    figure.update_yaxes(range=panel.y_range)
    tree: dict[str, Any] = figure.to_plotly_json()
    return tree
