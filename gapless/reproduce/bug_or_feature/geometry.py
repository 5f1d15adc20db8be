"""bug-or-feature's geometry: Figures 8, 9, 14, 18 and 19, what closing the gap of a space does to robustness."""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from gapless.geometry import close_gap, quantisation_robustness, robustness
from gapless.geometry.robustness import FAMILIES, Robustness, quantise
from gapless.report import Cell, Table

ALPHAS = (-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0)
EPSILONS = (0.01, 0.05, 0.1, 0.2)
LEVELS = (64, 128, 256, 512)
SIGMA = 0.025


def geometry_tables(x: Tensor, y: Tensor, draws: int) -> list[Table]:
    """What the paper says of a space.

    Args:
        x: unit-norm images (N, D), the queries.
        y: unit-norm texts (N, D), row i of image i, which are searched, moved and noisy.
        draws: of the noise.
    """
    return [_curves(x, y, draws), _families(x, y, draws), _epsilons(x, y, draws), _quantisation(x, y)]


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
