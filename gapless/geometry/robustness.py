"""How often a nearest neighbour survives noise, and what moving the candidates along a gap changes about it.

bug-or-feature, Eq. 12: R(alpha) = mean over queries q and draws e of [NN(q, T + alpha g) = NN(q, T + e + alpha g)].
Neighbours are by Euclidean distance of candidates that are not normalised again; with a dot product alpha would change
nothing.
Axis letters: N queries, C candidates, D dimensions, K draws, A values of alpha.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gapless.losses.strips import strips

Family = Literal["gaussian", "uniform", "laplace", "rademacher", "student"]
FAMILIES: tuple[Family, ...] = ("gaussian", "uniform", "laplace", "rademacher", "student")
Mode = Literal["l2", "cosine"]
STUDENT_FREEDOM = 5.0


@dataclass(frozen=True)
class Robustness:
    """Curves over alpha; each mean has its standard error over draws beside it where there is more than one."""

    alphas: tuple[float, ...]
    robustness: tuple[float, ...]
    """Share of nearest neighbours that the noise did not change."""
    robustness_error: tuple[float, ...]
    accuracy: tuple[float, ...]
    """Share of queries whose clean neighbour is right; empty without labels."""
    noisy_accuracy: tuple[float, ...]
    """The same under noise."""


def draw_noise(shape: Sequence[int], family: Family, sigma: float, generator: torch.Generator) -> Tensor:
    """Independent noise with mean 0 and variance sigma^2 in every component.

    Args:
        shape: of the result.
        family: gaussian, uniform on +-sqrt(3) sigma, laplace, rademacher (+-sigma), student (5 degrees of freedom).
        sigma: standard deviation.
        generator: of the random numbers.
    """
    if family == "gaussian":
        return torch.randn(*shape, generator=generator) * sigma
    if family == "rademacher":
        return (torch.randint(0, 2, tuple(shape), generator=generator) * 2 - 1) * sigma
    uniform = torch.rand(*shape, generator=generator)
    if family == "uniform":
        return (2 * uniform - 1) * (3**0.5 * sigma)
    if family == "laplace":
        centred = (uniform - 0.5).clamp(-0.5 + 1e-7, 0.5 - 1e-7)
        return -centred.sign() * (1 - 2 * centred.abs()).log() * (sigma / 2**0.5)
    normal = torch.randn(*shape, generator=generator)
    chi2 = torch.randn(int(STUDENT_FREEDOM), *shape, generator=generator).square().sum(dim=0)
    return normal / (chi2 / STUDENT_FREEDOM).sqrt() * (sigma * ((STUDENT_FREEDOM - 2) / STUDENT_FREEDOM) ** 0.5)


@torch.no_grad()
def robustness(
    queries: Tensor,
    candidates: Tensor,
    gap: Tensor,
    alphas: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    sigma: float = 0.025,
    draws: int = 100,
    family: Family = "gaussian",
    labels: Tensor | None = None,
    mode: Mode = "l2",
    seed: int = 0,
    progress: Callable[[int], None] = lambda k: None,
) -> Robustness:
    """Robustness of nearest neighbours to noise on the candidates, for candidates moved by alpha times a gap.

    All alphas see the same noise. In mode l2 the products of queries and noise are formed once a draw and serve all of
    them: |q - t - alpha g - e|^2 differs between candidates by -2 q.t - 2 q.e + |t + alpha g + e|^2 alone.

    Args:
        queries: unit-norm (N, D), such as images.
        candidates: unit-norm (C, D), such as class prompts.
        gap: (D,), for example the shift of :func:`close_gap` at alpha 1.
        alphas: how far the candidates are moved.
        sigma: standard deviation of a component of the noise.
        draws: K.
        family: of the noise.
        labels: int64 (N,), the right candidate of each query; None where none is.
        mode: l2, or cosine, which gives moved and noisy candidates length 1 again.
        seed: of the noise.
        progress: called after each draw with its number.
    """
    queries, candidates, gap = queries.float(), candidates.float(), gap.float()
    moved = [candidates + alpha * gap for alpha in alphas]
    clean = [nearest(queries, points, mode) for points in moved]
    generator = torch.Generator().manual_seed(seed)
    stays = torch.zeros(draws, len(alphas), dtype=torch.float64)
    right = torch.zeros(draws, len(alphas), dtype=torch.float64)
    for k in range(draws):
        noise = draw_noise(tuple(candidates.shape), family, sigma, generator)
        noisy = _nearest_of_many(queries, candidates, noise, moved, mode)
        for a in range(len(alphas)):
            stays[k, a] = (noisy[a] == clean[a]).double().mean()
            if labels is not None:
                right[k, a] = (noisy[a] == labels).double().mean()
        progress(k + 1)
    return _curves(alphas, stays, right, clean, labels)


def _curves(
    alphas: Sequence[float], stays: Tensor, right: Tensor, clean: Sequence[Tensor], labels: Tensor | None
) -> Robustness:
    """Means over draws of what stays and is right, both (K, A)."""
    draws = len(stays)
    errors = stays.std(dim=0) / draws**0.5 if draws > 1 else torch.zeros(len(alphas))
    return Robustness(
        tuple(alphas),
        tuple(stays.mean(dim=0).tolist()),
        tuple(errors.tolist()),
        tuple(float((neighbours == labels).double().mean()) for neighbours in clean) if labels is not None else (),
        tuple(right.mean(dim=0).tolist()) if labels is not None else (),
    )


def nearest(queries: Tensor, candidates: Tensor, mode: Mode = "l2") -> Tensor:
    """Index (N,) of the candidate (C, D) nearest to each query (N, D); the first of equals.

    Args:
        queries: unit-norm (N, D).
        candidates: (C, D).
        mode: l2, or cosine, which gives candidates length 1 first.
    """
    if mode == "cosine":
        candidates = F.normalize(candidates, dim=1)
    offsets = candidates.square().sum(dim=1) / 2
    rows = strips(len(queries), len(candidates))
    return torch.cat([(queries[strip] @ candidates.T - offsets).argmax(dim=1) for strip in rows])


def _nearest_of_many(
    queries: Tensor, candidates: Tensor, noise: Tensor, moved: Sequence[Tensor], mode: Mode
) -> list[Tensor]:
    """Nearest noisy candidates for each alpha."""
    if mode == "cosine":
        return [nearest(queries, points + noise, mode) for points in moved]
    noisy = candidates + noise
    offsets = [(points + noise).square().sum(dim=1) / 2 for points in moved]
    neighbours = torch.empty(len(moved), len(queries), dtype=torch.int64, device=queries.device)
    for strip in strips(len(queries), len(candidates)):
        scores = queries[strip] @ noisy.T  # q . alpha g is the same for all candidates
        for a, offset in enumerate(offsets):
            neighbours[a, strip] = (scores - offset).argmax(dim=1)
    return list(neighbours)


def quantise(features: Tensor, levels: int, low: float = -3.0, high: float = 3.0) -> Tensor:
    """Components as the centres of equal bins, those outside clipped; quantising twice changes nothing.

    Args:
        features: any shape.
        levels: number of bins.
        low: lower end of the first bin.
        high: upper end of the last one.
    """
    step = (high - low) / levels
    return ((features - low) / step).floor().clamp(0, levels - 1).mul(step).add(low + step / 2)


def quantise_int8(features: Tensor, scale: float) -> Tensor:
    """Components as a vector index stores them: round(127 x / scale) in [-127, 127], and back."""
    return (features * (127 / scale)).round().clamp(-127, 127) * (scale / 127)


def quantise_binary(features: Tensor) -> Tensor:
    """Components as one bit, +-1; their Euclidean order is that of Hamming distances."""
    return torch.where(features >= 0, 1.0, -1.0).to(features)


@torch.no_grad()
def quantisation_robustness(
    queries: Tensor,
    candidates: Tensor,
    gap: Tensor,
    quantiser: Callable[[Tensor], Tensor],
    alphas: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    labels: Tensor | None = None,
) -> Robustness:
    """As :func:`robustness`, where the noise is the quantisation of queries and moved candidates (one draw).

    Args:
        queries: unit-norm (N, D).
        candidates: unit-norm (C, D).
        gap: (D,).
        quantiser: maps features of any shape.
        alphas: how far the candidates are moved before they are quantised.
        labels: int64 (N,), the right candidate of each query.
    """
    stays, accuracy, noisy = [], [], []
    coarse = quantiser(queries.float())
    for alpha in alphas:
        moved = candidates.float() + alpha * gap.float()
        clean = nearest(queries.float(), moved, "l2")
        coarse_neighbours = nearest(coarse, quantiser(moved), "l2")
        stays.append(float((clean == coarse_neighbours).double().mean()))
        if labels is not None:
            accuracy.append(float((clean == labels).double().mean()))
            noisy.append(float((coarse_neighbours == labels).double().mean()))
    return Robustness(tuple(alphas), tuple(stays), (0.0,) * len(stays), tuple(accuracy), tuple(noisy))


def own_gap(choices: Tensor, gap: Tensor) -> Tensor:
    """The part of a gap that is orthogonal to the differences within each question's choices (its Eq. 11).

    Args:
        choices: (Q, A, D), the A choices of each of Q questions.
        gap: (D,).

    Returns:
        (Q, 1, D), what a question's choices are moved by at alpha 1.
    """
    centred = (choices - choices.mean(dim=1, keepdim=True)).double()
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    real = singular > 1e-6 * singular[:, :1].clamp(min=1e-300)  # float32 features: smaller ones are rounding
    along = (directions @ gap.double()) * real
    return (gap.double() - torch.einsum("qk,qkd->qd", along, directions)).unsqueeze(1).to(choices)


@torch.no_grad()
def choice_robustness(
    queries: Tensor,
    choices: Tensor,
    gap: Tensor,
    correct: Tensor,
    alphas: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    sigma: float = 0.025,
    draws: int = 100,
    seed: int = 0,
) -> Robustness:
    """As :func:`robustness`, where each query has its own few candidates (multiple-choice questions on images).

    Args:
        queries: unit-norm (Q, D), the image of each question.
        choices: unit-norm (Q, A, D).
        gap: (D,), from the mean of all choices to that of all images; each question moves by its :func:`own_gap`.
        correct: int64 (Q,), the right choice.
        alphas: how far the choices are moved.
        sigma: standard deviation of a component of the noise.
        draws: K.
        seed: of the noise.
    """
    step = own_gap(choices, gap)
    clean = [nearest_choice(queries, choices + alpha * step) for alpha in alphas]
    generator = torch.Generator().manual_seed(seed)
    stays, right = torch.zeros(2, draws, len(alphas), dtype=torch.float64)
    for k in range(draws):
        noisy = choices + draw_noise(tuple(choices.shape), "gaussian", sigma, generator)
        for a, alpha in enumerate(alphas):
            noisy_neighbours = nearest_choice(queries, noisy + alpha * step)
            stays[k, a] = (noisy_neighbours == clean[a]).double().mean()
            right[k, a] = (noisy_neighbours == correct).double().mean()
    return _curves(alphas, stays, right, clean, correct)


def nearest_choice(queries: Tensor, choices: Tensor) -> Tensor:
    """Index (Q,) of the choice (Q, A, D) nearest to each query (Q, D); the first of equals."""
    return (torch.einsum("qd,qad->qa", queries, choices) - choices.square().sum(dim=2) / 2).argmax(dim=1)


def rephrasing_correlation(originals: Tensor, rephrased: Tensor) -> float:
    """How correlated the noise of a rephrasing is between dimensions: d(C) of bug-or-feature, Eq. 49-50.

    Args:
        originals: (C, D) texts.
        rephrased: (C, D), the same texts in other words.

    Returns:
        |C - diag(C)|_F / |C|_F of the covariance C of their differences: 0 for uncorrelated noise, up to 1. White noise
        of the same shape is far from 0 when D is not small against C: see :func:`white_noise_correlation`.
    """
    noise = (rephrased - originals).double()
    noise = noise - noise.mean(dim=0)
    covariance = noise.T @ noise
    off = covariance - torch.diag(covariance.diagonal())
    return float(off.norm() / covariance.norm().clamp(min=1e-300))


def white_noise_correlation(count: int, dimension: int, seed: int = 0) -> float:
    """What :func:`rephrasing_correlation` says of independent Gaussian noise of the same shape: its baseline."""
    noise = torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed))
    return rephrasing_correlation(torch.zeros_like(noise), noise)
