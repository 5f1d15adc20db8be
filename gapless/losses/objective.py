"""The objective: named terms, each a function of the global batch, and their weighted sum."""

import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gapless.errors import ConfigError
from gapless.loss_terms import TERMS
from gapless.losses import distributed
from gapless.losses.distributed import Alone, Team, Tiled, tiled_terms
from gapless.losses.inputs import Inputs, Knobs, check_features
from gapless.losses.own import load_term

Implementation = Literal["auto", "plain", "tiled"]

PRESETS: dict[str, dict[str, float]] = {
    "clip": {"clip": 1.0},
    "cua": {"clip": 1.0, "uniform": 1.0, "align": 1.0},
    "cuaxu": {"clip": 1.0, "uniform": 1.0, "align": 1.0, "cross_uniform": 1.0},
    "siglip": {"siglip": 1.0},
    "none": {},
}
TILED_FROM = 512
"""Pairs from which the tiled terms are faster than the plain ones (bench/losses.py)."""


@dataclass(frozen=True)
class Term:
    """A function of the global batch and what the objective knows of it."""

    function: Callable[[Inputs, Knobs], Tensor]
    uses_temperature: bool
    tiled: Tiled | None = None
    least_pairs: int = 1
    initial_bias: float | None = None


def _built_in(name: str) -> Term:
    record = TERMS[name]
    module, _, function = record.function.partition(".")
    plain = getattr(importlib.import_module(f"gapless.losses.{module}"), function)
    parameters = list(inspect.signature(plain).parameters)
    tiled = getattr(distributed, record.tiled) if record.tiled else None

    def of_batch(inputs: Inputs, knobs: Knobs) -> Tensor:
        given = inputs.by_name() | knobs.by_name()
        value: Tensor = plain(**{parameter: given[parameter] for parameter in parameters})
        return value

    return Term(of_batch, "logit_scale" in parameters, tiled, record.least_pairs, record.initial_bias)


def _users(name: str) -> Term:
    own = load_term(name)
    return Term(lambda inputs, knobs: own(inputs.x, inputs.y, inputs.scale), uses_temperature=True)


class Objective:
    """A weighted sum of loss terms over the global batch.

    Args:
        terms: weight by name, of :data:`gapless.loss_terms.TERMS` or ``package.module:function`` for a function
            ``(image_features, text_features, logit_scale) -> scalar``.
        uniform_t: t of the Gaussian kernel in the uniformity terms.
        align_alpha: power of the distance in ``align``.
        hardness: of ``clip``'s negatives, see :func:`clip_loss`.
        implementation: ``plain`` has N x N matrices and torch's gradients; ``tiled`` needs memory that grows with N
            and shares the work of the processes; ``auto`` chooses by size.
        team: the processes that compute the loss together.

    Raises:
        ConfigError: no term, an unknown name, a function that cannot be imported, or a knob out of range.
    """

    def __init__(
        self,
        terms: Mapping[str, float],
        uniform_t: float = 2.0,
        align_alpha: float = 2.0,
        hardness: float = 0.0,
        implementation: Implementation = "auto",
        team: Team | None = None,
    ) -> None:
        if not terms:
            raise ConfigError("loss.terms: no term is set, name at least one, for example {clip: 1}")
        if not all(math.isfinite(weight) for weight in terms.values()):
            raise ConfigError(f"loss.terms: {dict(terms)} does not work, weights must be finite")
        for key, value, holds in (
            ("uniform_t", uniform_t, uniform_t > 0),
            ("align_alpha", align_alpha, align_alpha > 0),
            ("hardness", hardness, hardness >= 0),
        ):
            if not holds:
                raise ConfigError(f"loss.{key}: {value} does not work, it must be positive")
        self.weights = dict(terms)
        self.terms = {name: _built_in(name) if name in TERMS else _users(name) for name in terms}
        self.knobs = Knobs(uniform_t, align_alpha, hardness)
        self.implementation = implementation
        self.team: Team = team or Alone()

    @property
    def uses_temperature(self) -> bool:
        """Whether any term may depend on logit_scale; if none does, it has no gradient."""
        return any(term.uses_temperature for term in self.terms.values())

    @property
    def initial_bias(self) -> float | None:
        """Where a model's logit_bias starts; None if no term needs one."""
        biases = (self.terms[name].initial_bias for name in TERMS if name in self.terms)
        return next((bias for bias in biases if bias is not None), None)

    def __call__(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor | None = None,
        groups: Tensor | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> dict[str, Tensor]:
        """All terms, unweighted, by name, and ``loss``, their weighted sum.

        Args:
            image_features: unit-norm (N, D), the global batch; computed in float32 or wider.
            text_features: unit-norm (N, D).
            logit_scale: scalar, the inverse temperature.
            logit_bias: scalar, for siglip.
            groups: int64 (N, G); pairs that share a number are duplicates, left out of every repulsion.
            weights: of this step, in place of some of those given at first.

        Raises:
            ValueError: shapes that do not match, features that are not unit-norm, too few pairs.
            NonFiniteError: features that are not finite or all zero.
        """
        check_features(image_features, text_features, ", ".join(self.weights))
        n = len(image_features)
        lonely = [name for name, term in self.terms.items() if n < term.least_pairs]
        if lonely:
            raise ValueError(f"{', '.join(lonely)}: at least 2 pairs are needed, got {n}")
        x, y = (f if f.dtype == torch.float64 else f.float() for f in (image_features, text_features))
        scale = torch.as_tensor(logit_scale, dtype=x.dtype, device=x.device)
        bias = torch.as_tensor(0.0 if logit_bias is None else logit_bias, dtype=x.dtype, device=x.device)
        # Under autocast the products would be rounded to half precision.
        with torch.autocast(x.device.type, enabled=False):
            values = self._terms(Inputs(x, y, scale, bias, groups))
        current = self.weights | dict(weights or {})
        return values | {"loss": torch.stack([current[name] * value for name, value in values.items()]).sum()}

    def _terms(self, inputs: Inputs) -> dict[str, Tensor]:
        tiled = self.implementation == "tiled" or (self.implementation == "auto" and len(inputs.x) >= TILED_FROM)
        shared = {name: term.tiled for name, term in self.terms.items() if tiled and term.tiled}
        # The tiled terms come last, so that their backward pass, which needs the most memory, is the first.
        values = {n: term.function(inputs, self.knobs) for n, term in self.terms.items() if n not in shared}
        values |= tiled_terms(shared, inputs, self.knobs, self.team)
        return {name: values[name] for name in self.terms}
