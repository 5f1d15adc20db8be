"""The objective: named terms, each a function of the global batch, and their weighted sum."""

import difflib
import importlib
import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gapless.errors import ConfigError
from gapless.losses.alignment import alignment_loss, centroid_loss
from gapless.losses.clip import clip_loss, siglip_loss, simclr_loss
from gapless.losses.inputs import Inputs, Knobs, check_features
from gapless.losses.shared import TILED, Alone, Team, tiled_terms
from gapless.losses.structure import cyclip_cross_modal_loss, cyclip_in_modal_loss, cyclip_loss, koleo_loss
from gapless.losses.uniformity import (
    centroid_uniformity_loss,
    cross_attraction_loss,
    cross_uniformity_loss,
    uniformity_loss,
)

Term = Callable[[Inputs, Knobs], Tensor]
Implementation = Literal["auto", "plain", "tiled"]

BUILT_IN: dict[str, Term] = {
    "clip": lambda i, k: clip_loss(i.x, i.y, i.scale, k.hardness, i.groups),
    "uniform": lambda i, k: uniformity_loss(i.x, i.y, k.t, i.groups),
    "cross_uniform": lambda i, k: cross_uniformity_loss(i.x, i.y, k.t, i.groups),
    "align": lambda i, k: alignment_loss(i.x, i.y, k.alpha),
    "centroid": lambda i, k: centroid_loss(i.x, i.y),
    "centroid_uniform": lambda i, k: centroid_uniformity_loss(i.x, i.y, k.t, i.groups),
    "cross_attract": lambda i, k: cross_attraction_loss(i.x, i.y, k.t),
    "siglip": lambda i, k: siglip_loss(i.x, i.y, i.scale, i.bias, i.groups),
    "siglip_relative": lambda i, k: siglip_loss(i.x, i.y, i.scale, i.scale * i.bias, i.groups),
    "simclr": lambda i, k: simclr_loss(i.x, i.y, i.scale, i.groups),
    "cyclip": lambda i, k: cyclip_loss(i.x, i.y),
    "cyclip_in_modal": lambda i, k: cyclip_in_modal_loss(i.x, i.y),
    "cyclip_cross_modal": lambda i, k: cyclip_cross_modal_loss(i.x, i.y),
    "koleo": lambda i, k: koleo_loss(i.x, i.y, i.groups),
}
PRESETS: dict[str, dict[str, float]] = {
    "clip": {"clip": 1.0},
    "cua": {"clip": 1.0, "uniform": 1.0, "align": 1.0},
    "cuaxu": {"clip": 1.0, "uniform": 1.0, "align": 1.0, "cross_uniform": 1.0},
    "siglip": {"siglip": 1.0},
    "none": {},
}
TEMPERATURE = {"clip", "simclr", "siglip", "siglip_relative"}
"""Built-in terms that depend on the temperature."""
INITIAL_BIAS = {"siglip": -10.0, "siglip_relative": -1.0}
"""SigLIP starts at -10; at its temperature of 0.1 that is a relative bias of -1."""
PAIRS_NEEDED = {"uniform", "cross_uniform", "centroid_uniform", "koleo"}
"""Built-in terms that one pair alone does not have."""
TRIED, TRIED_DIM = 8, 16
"""Pairs and dimensions on which a user's own term is tried."""
TILED_FROM = 512
"""Pairs from which the tiled terms are faster than the plain ones (bench/losses.py)."""


class Objective:
    """A weighted sum of loss terms over the global batch.

    Args:
        terms: weight by name, of :data:`BUILT_IN` or ``package.module:function`` for a function
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
        self.own = {name: _load_term(name) for name in terms if name not in BUILT_IN}
        self.knobs = Knobs(uniform_t, align_alpha, hardness)
        self.implementation = implementation
        self.team: Team = team or Alone()

    @property
    def uses_temperature(self) -> bool:
        """Whether any term may depend on logit_scale; if none does, it has no gradient."""
        return bool(TEMPERATURE & set(self.weights) or self.own)

    @property
    def initial_bias(self) -> float | None:
        """Where a model's logit_bias starts; None if no term needs one."""
        return next((bias for name, bias in INITIAL_BIAS.items() if name in self.weights), None)

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
        lonely = [name for name in self.weights if name in PAIRS_NEEDED]
        if n < (2 if lonely else 1):
            raise ValueError(f"{', '.join(lonely or self.weights)}: at least 2 pairs are needed, got {n}")
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
        shared = [name for name in self.weights if tiled and name in TILED]
        # The tiled terms come last, so that their backward pass, which needs the most memory, is the first.
        values = {name: self._plain(name, inputs) for name in self.weights if name not in shared}
        values |= tiled_terms(shared, inputs, self.knobs, self.team)
        return {name: values[name] for name in self.weights}

    def _plain(self, name: str, inputs: Inputs) -> Tensor:
        if name in self.own:
            return self.own[name](inputs.x, inputs.y, inputs.scale)
        return BUILT_IN[name](inputs, self.knobs)


def _load_term(name: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A user's own term, named ``package.module:function``."""
    module, _, function = name.partition(":")
    if not function:
        close = difflib.get_close_matches(name, BUILT_IN, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(BUILT_IN)}, or package.module:function"
        raise ConfigError(f"loss.terms.{name}: unknown term, {hint}")
    try:
        own: Callable[[Tensor, Tensor, Tensor], Tensor] = getattr(importlib.import_module(module), function)
    except (Exception, SystemExit) as error:  # the module is the user's: it may hold or raise anything
        raise ConfigError(f"loss.terms.{name}: cannot be imported ({_told(error)})") from error
    if not callable(own):
        raise ConfigError(f"loss.terms.{name}: {function} is no function but {type(own).__name__}")
    _try_term(name, own)
    return own


def _try_term(name: str, own: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Call a user's term once on a few pairs, so that a slip in it is found before any data is read."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        x, y = (normalize(torch.randn(TRIED, TRIED_DIM), dim=1).requires_grad_() for _ in range(2))
        try:
            value = own(x, y, torch.tensor(10.0, requires_grad=True))
        except Exception as error:
            raise ConfigError(
                f"loss.terms.{name}: called with image_features and text_features of shape ({TRIED}, {TRIED_DIM}) "
                f"and logit_scale, it raises {_told(error)}"
            ) from error
    if not isinstance(value, Tensor) or value.dim() or not value.is_floating_point():
        kind = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ConfigError(f"loss.terms.{name}: it returns {kind}, it must return a scalar tensor of floats")
    if not value.requires_grad:
        raise ConfigError(f"loss.terms.{name}: what it returns has no gradient, so that it trains nothing")


def _told(error: BaseException) -> str:
    """An error of other people's code in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
