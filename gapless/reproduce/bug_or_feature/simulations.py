"""The paper's simulations of when contrastive training keeps a gap, and when it closes it.

Each returns its numbers and curves to draw. Axis letters: N pairs, D dimensions.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gapless.reproduce.simulated import Curves, Progress, Simulated, no_progress


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
    progress: Progress = no_progress,
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
                values = {
                    "step": float(step),
                    "loss": loss.item() / (2 * len(x)),
                    "gap": float((x.mean(dim=0) - y.mean(dim=0)).norm()),
                    "orthogonality": orthogonality(x, y),
                    "log10 variance of S": math.log10(float(sums.var(correction=0)) + 1e-16),
                }
            for name, value in values.items():
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
    moments: Sequence[float] = (),
    seed: int = 0,
    progress: Progress = no_progress,
) -> Simulated:
    """Two tight clusters under gradient descent: a gap remains that is orthogonal to both (Theorems 3.1 and 3.2).

    How long it remains depends on temperature, dimension and number of points; on the sphere of R^3 it closes.

    Args:
        n: pairs.
        d: dimensions.
        gap: distance of the two means along the first dimension; at most 2 on the sphere, where they lie on opposite
            sides of it, at less around the second dimension.
        spread: standard deviation of the clusters.
        temperature: tau.
        steps: of descent.
        lr: first step size.
        growth: how many times larger the last one is.
        sphere: points of length 1.
        flat: all variance in the second dimension, none along the gap (Fig. 11).
        moments: times, which are steps times their size, whose gap and orthogonality are numbers, too.
        seed: of the points.
        progress: called with the share that is done.

    Raises:
        ValueError: a gap on the sphere that is longer than its diameter.
    """
    if sphere and gap > 2:
        raise ValueError(f"a gap of {gap} does not fit on the sphere, whose points are at most 2 apart")
    x, y = _clusters(n, d, gap, spread, sphere, flat, seed)
    x, y, history = descend(x, y, steps, lr, temperature, sphere, growth, progress)
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
            **_at_moments(history, [moment / lr for moment in moments], moments),
        },
        curves={name: {"": (steps_at, history[name])} for name in history if name != "step"},
    )


def _clusters(n: int, d: int, gap: float, spread: float, sphere: bool, flat: bool, seed: int) -> tuple[Tensor, Tensor]:
    """The points that :func:`clusters` begins with, (N, D) each."""
    generator = torch.Generator().manual_seed(seed)
    sides: list[Tensor] = []
    for sign in (1, -1):
        points = torch.randn(n, d, generator=generator, dtype=torch.float64) * spread
        if flat:
            points[:, [k for k in range(d) if k != 1]] = 0
        points[:, 0] += sign * gap / 2
        if sphere:
            points[:, 1] += math.sqrt(1 - gap**2 / 4)
        sides.append(F.normalize(points, dim=1) if sphere else points)
    return sides[0], sides[1]


def _at_moments(history: dict[str, list[float]], steps: Sequence[float], names: Sequence[float]) -> dict[str, float]:
    """Gap and orthogonality at the recorded steps that are nearest to some."""
    numbers = {}
    for step, name in zip(steps, names, strict=True):
        k = min(range(len(history["step"])), key=lambda k: abs(history["step"][k] - step))
        numbers[f"gap at time {name:g}"] = history["gap"][k]
        numbers[f"orthogonality at time {name:g}"] = history["orthogonality"][k]
    return numbers


def by_number(
    numbers_of_pairs: Sequence[int] = (10, 20, 100),
    steps: int = 20_000,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Simulated:
    """The gap that remains in the plane, by the number of pairs, from what :func:`clusters` has by default."""
    numbers: dict[str, float] = {}
    for k, n in enumerate(numbers_of_pairs):
        numbers[f"{n} pairs"] = clusters(n, steps=steps, seed=seed).numbers["gap after"]
        progress((k + 1) / len(numbers_of_pairs))
    line = [float(n) for n in numbers_of_pairs], list(numbers.values())
    return Simulated(numbers, curves={"gap after training in the plane": {"by number of pairs": line}})


def ablation(
    n: int = 20,
    temperatures: Sequence[float] = (0.1, 1.0, 10.0),
    gaps: Sequence[float] = (0.0, 1.0, 2.0),
    dimensions: Sequence[int] = (3, 16, 256),
    time: float = 100.0,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Simulated:
    """The gap that remains on the sphere, by temperature, initial gap and dimension (Fig. 17 and its Appendix H).

    Args:
        n: pairs.
        temperatures: taus.
        gaps: initial ones.
        dimensions: D.
        time: of descent. Steps are a tenth of the temperature long, as gradients grow with its inverse.
        seed: of the points.
        progress: called with the share that is done.
    """
    numbers: dict[str, float] = {}
    curves: Curves = {}
    total = len(temperatures) * len(gaps) * len(dimensions)
    for d in dimensions:
        lines = curves[f"gap after training by temperature, {d} dimensions"] = {}
        for gap in gaps:
            remaining = []
            for temperature in temperatures:
                lr = 0.1 * temperature
                steps = max(1, round(time / lr))
                trained = clusters(n, d, gap, 0.01, temperature, steps, lr, 1.0, sphere=True, seed=seed)
                remaining.append(trained.numbers["gap after"])
                numbers[f"d {d}, gap {gap:g}, temperature {temperature:g}"] = remaining[-1]
                progress(len(numbers) / total)
            lines[f"gap {gap:g} at first"] = (list(temperatures), remaining)
    return Simulated(numbers, curves=curves)
