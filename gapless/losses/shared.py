"""The terms over all pairs of a batch, tile by tile and shared by the processes of a run.

Each process has the features of the whole batch and handles 1/W of the similarities. What crosses processes is one
log-sum-exp for each text and a few numbers.
Axis letters: N pairs, n rows of this process, D dimensions, W processes, G kinds of identity.
"""

from collections.abc import Collection
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


def tiled_terms(names: Collection[str], inputs: Inputs, knobs: Knobs, team: Team) -> dict[str, Tensor]:
    """The terms over all N^2 pairs, unweighted, the same on every process.

    Args:
        names: keys of :data:`TILED`.
        inputs: the whole batch, on every process.
        knobs: settings.
        team: the processes that share the work.
    """
    if not names:
        return {}
    share = _Share(names, inputs, knobs, team)
    sums = {part: value for name in names for part, value in TILED[name](share).items()}
    sums["repelling"] = share.repelling.sum().to(inputs.x.dtype)
    total = dict(zip(sums, team.sum(torch.stack(list(sums.values()))).unbind(), strict=True))
    ordered = total["repelling"]  # pairs (i, j); of pairs i < j there are half as many
    logs = {
        "uniform": lambda: (log_mean(total["image"], ordered / 2) + log_mean(total["text"], ordered / 2)) / 2,
        "centroid_uniform": lambda: log_mean(total["midpoint"], ordered / 2),
        "cross_uniform": lambda: log_mean(total["cross"], ordered),
        "cross_attract": lambda: -(total["everything"] / len(inputs.x) ** 2).log(),
    }
    return {name: logs[name]() if name in logs else total[name] for name in names}


class _Share:
    """What this process adds to the sums that the terms are made of: a method for each term."""

    def __init__(self, names: Collection[str], inputs: Inputs, knobs: Knobs, team: Team) -> None:
        n = len(inputs.x)
        self.inputs, self.knobs, self.team, self.n = inputs, knobs, team, n
        self.rows = slice(n * team.rank // team.size, n * (team.rank + 1) // team.size)
        self.repelling = num_repelling(n, inputs.groups, self.rows, inputs.x.device)
        # Logits of the matching pairs.
        self.matching = inputs.scale * (inputs.x[self.rows] * inputs.y[self.rows]).sum(dim=1)
        heads = self._heads(names)
        results = over_cross_pairs(inputs.x, inputs.y, list(heads.values()), self.rows, inputs.groups)
        self.cross = dict(zip(heads, results, strict=True))
        for name, head in heads.items():
            if isinstance(head, SoftmaxHead):
                by_row, by_column = self.cross[name]
                self.cross[name] = [by_row, _log_sum_exp(by_column, team)[self.rows]]

    def _heads(self, names: Collection[str]) -> dict[str, Head]:
        scale, bias, hardness = self.inputs.scale, self.inputs.bias, self.knobs.hardness
        heads: dict[str, Head] = {}
        if "simclr" in names or ("clip" in names and not hardness):
            heads["softmax"] = SoftmaxHead(scale)
        if "clip" in names and hardness:
            heads |= {"sharp": SoftmaxHead(scale * (1 + hardness)), "flat": SoftmaxHead(scale * hardness)}
        if "siglip" in names:
            heads["siglip"] = SigmoidHead(torch.stack([scale, bias]))
        if "siglip_relative" in names:
            heads["siglip_relative"] = SigmoidHead(torch.stack([scale, scale * bias]))
        if "cross_uniform" in names or ("cross_attract" in names and self.inputs.groups is None):
            heads["kernel"] = KernelHead(self.knobs.t)
        return heads

    def clip(self) -> dict[str, Tensor]:
        total = self.matching.new_zeros(())
        for side in range(2):
            if self.knobs.hardness:
                number = self.repelling.clamp(min=1).to(self.matching.dtype)
                mass = self.cross["sharp"][side] - self.cross["flat"][side] + number.log()
            else:
                mass = self.cross["softmax"][side]
            total = total + self._softplus(mass)
        return {"clip": total / (2 * self.n)}

    def simclr(self) -> dict[str, Tensor]:
        total = self.matching.new_zeros(())
        for side, features in enumerate((self.inputs.x, self.inputs.y)):
            ((within, _),) = over_cross_pairs(
                features, features, [SoftmaxHead(self.inputs.scale)], self.rows, self.inputs.groups
            )
            # Relative to the matching pair, as the other, and not to the point itself.
            within = within + self.inputs.scale * features[self.rows].square().sum(dim=1) - self.matching
            total = total + self._softplus(torch.logaddexp(self.cross["softmax"][side], within))
        return {"simclr": total / (2 * self.n)}

    def _softplus(self, mass: Tensor) -> Tensor:
        """The sum over these rows; what nothing repels has no part in it."""
        return softplus(mass.masked_fill(self.repelling == 0, EXCLUDED)).sum()

    def siglip(self) -> dict[str, Tensor]:
        return {"siglip": self._sigmoid("siglip", self.inputs.bias)}

    def siglip_relative(self) -> dict[str, Tensor]:
        return {"siglip_relative": self._sigmoid("siglip_relative", self.inputs.scale * self.inputs.bias)}

    def _sigmoid(self, name: str, bias: Tensor) -> Tensor:
        return (self.cross[name][0] + softplus(-self.matching - bias).sum()) / self.n

    def uniform(self) -> dict[str, Tensor]:
        return {"image": self._kernel_sum(self.inputs.x), "text": self._kernel_sum(self.inputs.y)}

    def centroid_uniform(self) -> dict[str, Tensor]:
        return {"midpoint": self._kernel_sum(midpoints(self.inputs.x, self.inputs.y))}

    def _kernel_sum(self, features: Tensor) -> Tensor:
        return kernel_sum(features, self.knobs.t, self.inputs.groups, self.team.rank, self.team.size)

    def cross_uniform(self) -> dict[str, Tensor]:
        return {"cross": self.cross["kernel"][0]}

    def cross_attract(self) -> dict[str, Tensor]:
        x, y, t = self.inputs.x, self.inputs.y, self.knobs.t
        if self.inputs.groups is None:
            others = self.cross["kernel"][0]
        else:  # duplicates attract like everything else
            ((others,),) = over_cross_pairs(x, y, [KernelHead(t)], self.rows)
        return {"everything": others + gaussian_kernel((x[self.rows] * y[self.rows]).sum(dim=1), t).sum()}

    def koleo(self) -> dict[str, Tensor]:
        return {"koleo": sum_of_koleo(self.inputs.x, self.inputs.y, self.inputs.groups, self.rows) / self.n}


TILED = {
    "clip": _Share.clip,
    "simclr": _Share.simclr,
    "siglip": _Share.siglip,
    "siglip_relative": _Share.siglip_relative,
    "uniform": _Share.uniform,
    "centroid_uniform": _Share.centroid_uniform,
    "cross_uniform": _Share.cross_uniform,
    "cross_attract": _Share.cross_attract,
    "koleo": _Share.koleo,
}
"""The terms over all pairs."""


def _log_sum_exp(values: Tensor, team: Team) -> Tensor:
    """Elementwise log-sum-exp over the processes, with gradient."""
    if team.size == 1:
        return values
    top = team.max(values.detach())
    return team.sum((values - top).exp()).log() + top
