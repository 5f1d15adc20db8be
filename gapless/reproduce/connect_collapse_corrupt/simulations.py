"""The paper's simulations of how a gap arises and why it stays.

Each returns its numbers, the paper's beside them, and curves to draw. Axis letters: N pairs, D dimensions.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gapless.geometry.spectrum import effective_dimension
from gapless.reproduce.simulated import Progress, Simulated, no_progress


def mlp_collapse(
    inputs: int = 10_000, width: int = 512, depth: int = 50, seed: int = 0, progress: Progress = no_progress
) -> Simulated:
    """Effective dimensions (99 %) of Gaussian inputs through the layers of a random ReLU network, before each ReLU.

    Linear layers with Xavier's uniform weights and no bias (the paper's appendix I; its code has 10,000 inputs, its
    text 1,000).
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(inputs, width, generator=generator)
    bound = math.sqrt(3 / width)
    dimensions = {0: effective_dimension(x)}
    for layer in range(1, depth):
        weight = (2 * torch.rand(width, width, generator=generator) - 1) * bound
        x = (x if layer == 1 else x.relu()) @ weight.T
        if layer % 5 == 0:
            dimensions[layer] = effective_dimension(x)
            progress(layer / depth)
    published = dict(zip(range(0, 50, 5), (504, 303, 247, 195, 167, 148, 132, 118, 95, 84), strict=True))
    line = [float(k) for k in dimensions], [float(v) for v in dimensions.values()]
    return Simulated(
        {f"layer {k}": float(v) for k, v in dimensions.items()},
        {f"layer {k}": float(v) for k, v in published.items() if k in dimensions and (inputs, width) == (10_000, 512)},
        {"effective dimensions by layer": {"random ReLU network": line}},
    )


def two_spans(
    n: int = 500,
    d: int = 512,
    image_dims: int = 25,
    text_dims: int = 230,
    steps: int = 1000,
    lr: float = 20.0,
    temperature: float = 0.07,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Simulated:
    """Images and texts that vary in different dimensions and are different constants in all others, optimised by SGD.

    The gap of the constant dimensions gets no gradient and stays (Lemma 1). The paper takes 200,000 steps of 0.1 for
    1,000 pairs, its code 100,000 for 500; by default a thousand steps of 20 lead as far.
    """
    generator = torch.Generator().manual_seed(seed)
    constants = torch.randn(2, d, generator=generator)
    x, y = (row.repeat(n, 1) for row in constants)
    x[:, :image_dims] = torch.randn(n, image_dims, generator=generator)
    y[:, image_dims : image_dims + text_dims] = torch.randn(n, text_dims, generator=generator)
    start = image_dims + text_dims
    before = _gap_and_variance(x, y, start)
    losses = _align(x, y, steps, lr, temperature, progress)
    after = _gap_and_variance(x, y, start)
    axis = [float(k) for k in range(d)]
    logs = {when: m[2].clamp(min=1e-12).log10().tolist() for when, m in (("before", before), ("after", after))}
    return Simulated(
        {
            "gap before": before[0],
            "gap before, constant dimensions": before[1],
            "gap after": after[0],
            "gap after, constant dimensions": after[1],
            "variance after, constant dimensions": float(after[2][start:].max()),
            "loss after": losses[-1] if losses else math.nan,
        },
        {
            "gap before": 1.21,
            "gap before, constant dimensions": 0.99,
            "gap after, constant dimensions": 0.82,
            "variance after, constant dimensions": 0.0,
        },
        {"variance of each dimension (log10)": {when: (axis, values) for when, values in logs.items()}},
    )


def _gap_and_variance(x: Tensor, y: Tensor, start: int) -> tuple[float, float, Tensor]:
    """The length of the gap, that of its part in the dimensions from ``start`` on, and the variance of each."""
    u, v = F.normalize(x.detach(), dim=1), F.normalize(y.detach(), dim=1)
    gap = u.mean(dim=0) - v.mean(dim=0)
    return float(gap.norm()), float(gap[start:].norm()), (u.var(dim=0) + v.var(dim=0)) / 2


def _align(x: Tensor, y: Tensor, steps: int, lr: float, temperature: float, progress: Progress) -> list[float]:
    """Move both clouds, in place, by SGD on CLIP's loss; the loss before each step."""
    points = [x.requires_grad_(), y.requires_grad_()]
    optimizer, labels, losses = torch.optim.SGD(points, lr=lr), torch.arange(len(x)), []
    for step in range(steps):
        logits = F.normalize(x, dim=1) @ F.normalize(y, dim=1).T / temperature
        loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
        progress((step + 1) / steps)
    return losses


def stable_region(
    n: int = 1000,
    d: int = 64,
    temperatures: Sequence[float] = (0.01, 0.02, 0.05, 0.07, 0.1, 0.2, 0.5, 1.0),
    delta: float = 0.01,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Simulated:
    """Margin over the hardest negative at which a term of the loss falls below delta, by temperature (Lemma 2)."""
    points = F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)
    negatives = points[1:] @ points[0]
    hardest = negatives.max()
    margins = []
    for t in temperatures:
        # loss = log(1 + o exp(-margin / t)), where o = sum of exp((negative - hardest) / t) lies between 1 and n.
        o = ((negatives - hardest) / t).exp().sum()
        margins.append(float(t * (o / math.expm1(delta)).log()))
        progress(len(margins) / len(temperatures))
    return Simulated(
        {f"margin at temperature {t:g}": m for t, m in zip(temperatures, margins, strict=True)},
        curves={"margin that ends the optimisation": {"by temperature": (list(temperatures), margins)}},
    )
