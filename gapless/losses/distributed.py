"""The terms over all pairs of a batch, tile by tile and shared by the processes of a run.

Each process has the features of the whole batch and handles 1/W of the similarities. What crosses processes is one
log-sum-exp for each text and a few numbers.
Axis letters: N pairs, n rows of this process, D dimensions, W processes, G kinds of identity.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gapless.losses.heads import Head, KernelHead, SigmoidHead, SoftmaxHead, gaussian_kernel
from gapless.losses.inputs import Inputs, Knobs
from gapless.losses.pairs import EXCLUDED, num_repelling, softplus
from gapless.losses.structure import sum_of_koleo
from gapless.losses.tiled import kernel_sum, over_cross_pairs
from gapless.losses.uniformity import log_mean, midpoints


class Team(Protocol):
    """The processes that compute one batch's loss together.

    Every process ends with the same loss. Gradients are those of the sum of all W of these losses, which DDP's
    averaging divides by W again.
    """

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over the processes, with gradient."""

    def max(self, tensor: Tensor) -> Tensor:
        """Maximum over the processes, without gradient."""


class Alone:
    """A team of one."""

    rank = 0
    size = 1

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def max(self, tensor: Tensor) -> Tensor:
        return tensor


class Share:
    """What this process computes of the terms of a batch: its rows of all similarities, in one pass for all terms."""

    def __init__(self, terms: Iterable["Tiled"], inputs: Inputs, knobs: Knobs, team: Team) -> None:
        n = len(inputs.x)
        self.inputs, self.knobs, self.team, self.n = inputs, knobs, team, n
        self.rows = slice(n * team.rank // team.size, n * (team.rank + 1) // team.size)
        self.repelling = num_repelling(n, inputs.groups, self.rows, inputs.x.device)
        # Logits of the matching pairs.
        self.matching = inputs.scale * (inputs.x[self.rows] * inputs.y[self.rows]).sum(dim=1)
        named = [item for term in terms for item in term.heads(inputs, knobs).items()]
        # In one order whatever that of the terms: sums of floats depend on it.
        heads = dict(sorted(named, key=lambda item: ORDER.index(type(item[1]))))
        results = over_cross_pairs(inputs.x, inputs.y, list(heads.values()), self.rows, inputs.groups)
        self.cross: dict[str, list[Tensor]] = dict(zip(heads, results, strict=True))
        for name, head in heads.items():
            if isinstance(head, SoftmaxHead):
                by_row, by_column = self.cross[name]
                self.cross[name] = [by_row, _log_sum_exp(by_column, team)[self.rows]]

    def softplus(self, mass: Tensor) -> Tensor:
        """The sum over these rows; what nothing repels has no part in it."""
        return softplus(mass.masked_fill(self.repelling == 0, EXCLUDED)).sum()

    def kernel_sum(self, features: Tensor) -> Tensor:
        """This process's part of the kernel's sum over the pairs of one cloud."""
        return kernel_sum(features, self.knobs.t, self.inputs.groups, self.team.rank, self.team.size)


def _no_heads(inputs: Inputs, knobs: Knobs) -> dict[str, Head]:
    return {}


def _first(sums: Sequence[Tensor], ordered: Tensor, inputs: Inputs) -> Tensor:
    return sums[0]


@dataclass(frozen=True)
class Tiled:
    """A term over all N^2 pairs, made of sums to which each process adds its part."""

    parts: Callable[[Share], list[Tensor]]
    """What this process adds to each sum."""
    value: Callable[[Sequence[Tensor], Tensor, Inputs], Tensor] = _first
    """The term by its sums over all processes and the number of pairs (i, j) that repel each other."""
    heads: Callable[[Inputs, Knobs], dict[str, Head]] = _no_heads
    """What it needs of images and other pairs' texts, as :attr:`Share.cross`. Terms share a head by its name."""


def tiled_terms(terms: Mapping[str, Tiled], inputs: Inputs, knobs: Knobs, team: Team) -> dict[str, Tensor]:
    """The terms over all N^2 pairs, unweighted, the same on every process.

    Args:
        terms: their tiled forms by name.
        inputs: the whole batch, on every process.
        knobs: settings.
        team: the processes that share the work.
    """
    if not terms:
        return {}
    share = Share(terms.values(), inputs, knobs, team)
    parts = {name: term.parts(share) for name, term in terms.items()}
    ours = [*(part for several in parts.values() for part in several), share.repelling.sum().to(inputs.x.dtype)]
    *sums, ordered = team.sum(torch.stack(ours)).unbind()
    following = iter(sums)
    return {
        name: terms[name].value([next(following) for _ in several], ordered, inputs) for name, several in parts.items()
    }


def _softmax(inputs: Inputs, knobs: Knobs) -> dict[str, Head]:
    return {"softmax": SoftmaxHead(inputs.scale)}


def _clip_heads(inputs: Inputs, knobs: Knobs) -> dict[str, Head]:
    if not knobs.hardness:
        return _softmax(inputs, knobs)
    scale, hardness = inputs.scale, knobs.hardness
    return {"sharp": SoftmaxHead(scale * (1 + hardness)), "flat": SoftmaxHead(scale * hardness)}


def _clip(share: Share) -> list[Tensor]:
    total = share.matching.new_zeros(())
    for side in range(2):
        if share.knobs.hardness:
            number = share.repelling.clamp(min=1).to(share.matching.dtype)
            mass = share.cross["sharp"][side] - share.cross["flat"][side] + number.log()
        else:
            mass = share.cross["softmax"][side]
        total = total + share.softplus(mass)
    return [total / (2 * share.n)]


def _simclr(share: Share) -> list[Tensor]:
    total, inputs = share.matching.new_zeros(()), share.inputs
    for side, features in enumerate((inputs.x, inputs.y)):
        ((within, _),) = over_cross_pairs(features, features, [SoftmaxHead(inputs.scale)], share.rows, inputs.groups)
        # Relative to the matching pair, as the other, and not to the point itself.
        within = within + inputs.scale * features[share.rows].square().sum(dim=1) - share.matching
        total = total + share.softplus(torch.logaddexp(share.cross["softmax"][side], within))
    return [total / (2 * share.n)]


def _sigmoid(name: str, bias_of: Callable[[Inputs], Tensor]) -> Tiled:
    """SigLIP's loss, with a head of its own."""

    def heads(inputs: Inputs, knobs: Knobs) -> dict[str, Head]:
        return {name: SigmoidHead(torch.stack([inputs.scale, bias_of(inputs)]))}

    def parts(share: Share) -> list[Tensor]:
        attraction = softplus(-share.matching - bias_of(share.inputs)).sum()
        return [(share.cross[name][0] + attraction) / share.n]

    return Tiled(parts, heads=heads)


def _kernel(inputs: Inputs, knobs: Knobs) -> dict[str, Head]:
    return {"kernel": KernelHead(knobs.t)}


def _attraction_heads(inputs: Inputs, knobs: Knobs) -> dict[str, Head]:
    return _kernel(inputs, knobs) if inputs.groups is None else {}


def _attraction(share: Share) -> list[Tensor]:
    x, y, t = share.inputs.x, share.inputs.y, share.knobs.t
    if share.inputs.groups is None:
        others = share.cross["kernel"][0]
    else:  # duplicates attract like everything else
        ((others,),) = over_cross_pairs(x, y, [KernelHead(t)], share.rows)
    return [others + gaussian_kernel((x[share.rows] * y[share.rows]).sum(dim=1), t).sum()]


def _koleo(share: Share) -> list[Tensor]:
    return [sum_of_koleo(share.inputs.x, share.inputs.y, share.inputs.groups, share.rows) / share.n]


def _log_mean_within(sums: Sequence[Tensor], ordered: Tensor, inputs: Inputs) -> Tensor:
    """The mean over clouds of the log-mean kernel; of pairs i < j there are half as many as of (i, j)."""
    return torch.stack([log_mean(total, ordered / 2) for total in sums]).mean()


ORDER = [SoftmaxHead, SigmoidHead, KernelHead]
CLIP = Tiled(_clip, heads=_clip_heads)
SIMCLR = Tiled(_simclr, heads=_softmax)
SIGLIP = _sigmoid("siglip", lambda inputs: inputs.bias)
RELATIVE_SIGLIP = _sigmoid("siglip_relative", lambda inputs: inputs.scale * inputs.bias)
UNIFORM = Tiled(lambda share: [share.kernel_sum(share.inputs.x), share.kernel_sum(share.inputs.y)], _log_mean_within)
CENTROID_UNIFORM = Tiled(lambda share: [share.kernel_sum(midpoints(share.inputs.x, share.inputs.y))], _log_mean_within)
CROSS_UNIFORM = Tiled(
    lambda share: [share.cross["kernel"][0]], lambda sums, ordered, inputs: log_mean(sums[0], ordered), _kernel
)
CROSS_ATTRACT = Tiled(
    _attraction, lambda sums, ordered, inputs: -(sums[0] / len(inputs.x) ** 2).log(), _attraction_heads
)
KOLEO = Tiled(_koleo)


def _log_sum_exp(values: Tensor, team: Team) -> Tensor:
    """Elementwise log-sum-exp over the processes, with gradient."""
    if team.size == 1:
        return values
    top = team.max(values.detach())
    return team.sum((values - top).exp()).log() + top
