"""The papers' simulations: where a gap comes from, why it stays, and when it does not.

Each returns its numbers, the paper's beside them, and curves to draw. Axis letters: N pairs, D dimensions.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gapless.geometry.spectrum import effective_dimension

Curves = dict[str, dict[str, tuple[list[float], list[float]]]]
"""Charts by title: lines by name, x and y."""
Progress = Callable[[float], None]


@dataclass
class Simulated:
    """What a simulation found."""

    numbers: dict[str, float]
    published: dict[str, float] = field(default_factory=dict)
    """The paper's values of the same names, or of its authors' code."""
    curves: Curves = field(default_factory=dict)


def _nothing(share: float) -> None:
    return None


# --- connect-collapse-corrupt ------------------------------------------------------------------------------------


def mlp_collapse(
    inputs: int = 10_000, width: int = 512, depth: int = 50, seed: int = 0, progress: Progress = _nothing
) -> Simulated:
    """Effective dimensions (99 %) of Gaussian inputs through the layers of a random ReLU network, before each ReLU.

    Linear layers with Xavier's uniform weights and no bias (the paper's appendix I; its code has 10,000 inputs, its
    text 1,000).
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(inputs, width, generator=generator)
    bound = math.sqrt(3 / width)
    found = {0: effective_dimension(x)}
    for layer in range(1, depth):
        weight = (2 * torch.rand(width, width, generator=generator) - 1) * bound
        x = (x if layer == 1 else x.relu()) @ weight.T
        if layer % 5 == 0:
            found[layer] = effective_dimension(x)
            progress(layer / depth)
    published = dict(zip(range(0, 50, 5), (504, 303, 247, 195, 167, 148, 132, 118, 95, 84), strict=True))
    line = [float(k) for k in found], [float(v) for v in found.values()]
    return Simulated(
        {f"layer {k}": float(v) for k, v in found.items()},
        {f"layer {k}": float(v) for k, v in published.items() if k in found and (inputs, width) == (10_000, 512)},
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
    progress: Progress = _nothing,
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

    def measure() -> tuple[float, float, Tensor]:
        u, v = F.normalize(x.detach(), dim=1), F.normalize(y.detach(), dim=1)
        gap = u.mean(dim=0) - v.mean(dim=0)
        return float(gap.norm()), float(gap[start:].norm()), (u.var(dim=0) + v.var(dim=0)) / 2

    before = measure()
    x.requires_grad_()
    y.requires_grad_()
    optimizer, labels = torch.optim.SGD([x, y], lr=lr), torch.arange(n)
    losses = []
    for step in range(steps):
        logits = F.normalize(x, dim=1) @ F.normalize(y, dim=1).T / temperature
        loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
        progress((step + 1) / steps)
    after = measure()
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


def stable_region(
    n: int = 1000,
    d: int = 64,
    temperatures: Sequence[float] = (0.01, 0.02, 0.05, 0.07, 0.1, 0.2, 0.5, 1.0),
    delta: float = 0.01,
    seed: int = 0,
    progress: Progress = _nothing,
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


# --- bug-or-feature ----------------------------------------------------------------------------------------------


def softmax_sums(x: Tensor, y: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """S^x and S^y, (N,): what each point receives of the other side's softmax weights; 1 each if doubly stochastic."""
    logits = -torch.cdist(x, y).square() / temperature
    return logits.softmax(dim=0).sum(dim=1), logits.softmax(dim=1).sum(dim=0)


def orthogonality(x: Tensor, y: Tensor) -> float:
    """Mean |cos| of centred points and the gap (Assumption 3.3); 0 if orthogonal, and where there is no gap."""
    gap = y.mean(dim=0) - x.mean(dim=0)
    if gap.norm() < 1e-6:
        return 0.0
    centred = torch.cat([x - x.mean(dim=0), y - y.mean(dim=0)])
    return float(F.cosine_similarity(centred, gap[None], dim=1).abs().mean())


def descend(
    x: Tensor,
    y: Tensor,
    steps: int,
    lr: float,
    temperature: float,
    sphere: bool = False,
    growth: float = 1.0,
    progress: Progress = _nothing,
) -> tuple[Tensor, Tensor, dict[str, list[float]]]:
    """Full-batch gradient descent on the contrastive loss of squared distances (Eq. 6), points being the parameters.

    Args:
        x: (N, D).
        y: (N, D).
        steps: of descent.
        lr: step size; the loss is a sum over points, so that it does not shrink with N.
        temperature: tau of Eq. 6, which is twice CLIP's on the sphere.
        sphere: give points length 1 after each step.
        growth: how many times larger the last step size is: gradients fade as pairs part, and so do steps.
        progress: called with the share that is done.

    Returns:
        x and y at the end, and ``step``, ``loss``, ``gap``, ``orthogonality``, ``log10 variance of S`` at 100 moments.
    """
    x, y, labels = x.clone().requires_grad_(), y.clone().requires_grad_(), torch.arange(len(x))
    history: dict[str, list[float]] = {}
    for step in range(steps + 1):
        logits = -torch.cdist(x, y).square() / temperature
        loss = F.cross_entropy(logits, labels, reduction="sum") + F.cross_entropy(logits.T, labels, reduction="sum")
        if step % max(1, steps // 100) == 0 or step == steps:
            with torch.no_grad():
                sums = torch.cat(softmax_sums(x, y, temperature))
                found = {
                    "step": float(step),
                    "loss": loss.item() / (2 * len(x)),
                    "gap": float((x.mean(dim=0) - y.mean(dim=0)).norm()),
                    "orthogonality": orthogonality(x, y),
                    "log10 variance of S": math.log10(float(sums.var(correction=0)) + 1e-16),
                }
            for name, value in found.items():
                history.setdefault(name, []).append(value)
            progress(step / steps)
        if step < steps:
            gradients = torch.autograd.grad(loss, (x, y))
            with torch.no_grad():
                for points, gradient in zip((x, y), gradients, strict=True):
                    points -= lr * growth ** (step / steps) * gradient
                    if sphere:
                        points /= points.norm(dim=1, keepdim=True)
    return x.detach(), y.detach(), history


def clusters(
    n: int = 10,
    d: int = 2,
    gap: float = 1.0,
    spread: float = 0.01,
    temperature: float = 0.1,
    steps: int = 20_000,
    lr: float = 0.0005,
    growth: float = 300.0,
    sphere: bool = False,
    flat: bool = False,
    seed: int = 0,
    progress: Progress = _nothing,
) -> Simulated:
    """Two tight clusters under gradient descent: a gap remains that is orthogonal to both (Theorems 3.1 and 3.2).

    Args:
        n: pairs.
        d: dimensions.
        gap: distance of the two means along the first dimension.
        spread: standard deviation of the clusters.
        temperature: tau.
        steps: of descent.
        lr: first step size.
        growth: how many times larger the last one is.
        sphere: points of length 1, around +-e1.
        flat: all variance in the second dimension, none along the gap (Fig. 11).
        seed: of the points.
        progress: called with the share that is done.
    """
    generator = torch.Generator().manual_seed(seed)
    sides: list[Tensor] = []
    for sign in (1, -1):
        points = torch.randn(n, d, generator=generator, dtype=torch.float64) * spread
        if flat:
            points[:, [k for k in range(d) if k != 1]] = 0
        points[:, 0] += sign * (1.0 if sphere else gap / 2)
        sides.append(F.normalize(points, dim=1) if sphere else points)
    x, y, history = descend(sides[0], sides[1], steps, lr, temperature, sphere, growth, progress)
    nearest = torch.cdist(x, y).argmin(dim=1)
    steps_at = history["step"]
    return Simulated(
        {
            "gap before": history["gap"][0],
            "gap after": history["gap"][-1],
            "orthogonality before": history["orthogonality"][0],
            "orthogonality after": history["orthogonality"][-1],
            "variance of S before": 10 ** history["log10 variance of S"][0],
            "variance of S after": 10 ** history["log10 variance of S"][-1],
            "relative alignment": float((nearest == torch.arange(n)).double().mean()),
            "loss after": history["loss"][-1],
        },
        curves={name: {"": (steps_at, history[name])} for name in history if name != "step"},
    )


def ablation(
    n: int = 20,
    temperatures: Sequence[float] = (0.1, 0.3, 1.0, 10.0),
    gaps: Sequence[float] = (0.0, 0.5, 1.0),
    dimensions: Sequence[int] = (2, 16, 256),
    steps: int = 2000,
    seed: int = 0,
    progress: Progress = _nothing,
) -> Simulated:
    """The gap that remains, by temperature, initial gap and dimension (Fig. 17 and its Appendix H).

    Steps shrink with the temperature, as gradients grow with its inverse.
    """
    numbers: dict[str, float] = {}
    curves: Curves = {}
    total = len(temperatures) * len(gaps) * len(dimensions)
    for d in dimensions:
        lines = curves[f"gap after training by temperature, {d} dimensions"] = {}
        for gap in gaps:
            remaining = []
            for temperature in temperatures:
                lr = 0.05 * min(1.0, temperature)
                found = clusters(n, d, gap, 0.05, temperature, steps, lr, 1.0, seed=seed)
                remaining.append(found.numbers["gap after"])
                numbers[f"d {d}, gap {gap:g}, temperature {temperature:g}"] = remaining[-1]
                progress(len(numbers) / total)
            lines[f"gap {gap:g} at first"] = (list(temperatures), remaining)
    return Simulated(numbers, curves=curves)


SIMULATIONS: dict[str, tuple[str, Callable[..., Simulated], dict[str, Any], dict[str, Any]]] = {
    "mlp-collapse": ("dimensional collapse by depth", mlp_collapse, {}, {"inputs": 300, "width": 64, "depth": 16}),
    "two-spans": (
        "a gap in dimensions without gradient",
        two_spans,
        {},
        {"n": 60, "d": 48, "image_dims": 4, "text_dims": 16, "steps": 30},
    ),
    "stable-region": ("the margin that ends the optimisation, by temperature", stable_region, {}, {"n": 50}),
    "plane": ("two clusters in the plane", clusters, {}, {"steps": 500}),
    "sphere": (
        "two clusters on the sphere",
        clusters,
        {"n": 200, "d": 3, "sphere": True, "steps": 4000, "growth": 1.0},
        {"n": 20, "d": 3, "sphere": True, "steps": 300, "lr": 0.002, "growth": 1.0},
    ),
    "flat": (
        "no variance along the gap, and yet it closes",
        clusters,
        {"n": 40, "flat": True, "spread": 0.2, "lr": 0.01, "growth": 1.0},
        {"n": 40, "flat": True, "spread": 0.2, "lr": 0.01, "growth": 1.0, "steps": 500},
    ),
    "warm": (
        "temperature 1 closes the gap",
        clusters,
        {"n": 40, "temperature": 1.0, "lr": 0.02, "growth": 1.0},
        {"n": 40, "temperature": 1.0, "lr": 0.02, "growth": 1.0, "steps": 500},
    ),
    "high-dimension": (
        "clusters on the sphere of R^64: S becomes doubly stochastic",
        clusters,
        {"n": 500, "d": 64, "sphere": True, "spread": 0.1, "steps": 1500, "growth": 1.0},
        {"n": 40, "d": 16, "sphere": True, "spread": 0.1, "steps": 200, "lr": 0.002, "growth": 1.0},
    ),
    "ablation": (
        "what remains of a gap, by temperature, initial gap and dimension",
        ablation,
        {},
        {"n": 8, "temperatures": (0.1, 1.0), "gaps": (0.0, 1.0), "dimensions": (2, 8), "steps": 300},
    ),
}
"""What it shows, the function, its settings, and settings of seconds."""
