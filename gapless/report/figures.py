"""Figures of embeddings, drawn with matplotlib."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure
from torch import Tensor

IMAGE_COLOR, TEXT_COLOR = "#0072B2", "#D55E00"
"""Okabe and Ito's blue and vermilion, which colour-blind readers tell apart."""

Clouds = Mapping[str, tuple[Tensor, Tensor]]


def embedding_maps(clouds: Clouds, captions: Mapping[str, str], path: Path, links: int = 60) -> None:
    """One map for each model: images and texts on the first two principal components of both together.

    Args:
        clouds: image and text features, unit-norm (N, D), by the model's name.
        captions: a line below each map.
        path: of the picture; its ending decides the format.
        links: pairs that are joined by a line.
    """
    with matplotlib.rc_context({"font.size": 9, "axes.edgecolor": "0.8"}):
        figure = Figure(figsize=(3.3 * len(clouds), 3.9), layout="constrained")
        for axes, (name, (images, texts)) in zip(
            figure.subplots(1, len(clouds), squeeze=False)[0], clouds.items(), strict=True
        ):
            points = torch.cat([images, texts]).double()
            centred = points - points.mean(dim=0)
            # The eigenvectors of the covariance; the largest eigenvalues come last.
            x, y = (centred @ torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -2:].flip(1)).T
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
            axes.set(title=name, xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
            axes.set_xlabel(captions.get(name, ""))
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, markerscale=1.8)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
