"""The objective: named terms, each a function of the global batch, and their weighted sum."""

import difflib
import importlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from gapless.errors import ConfigError
from gapless.losses.alignment import alignment_loss
from gapless.losses.clip import clip_loss, siglip_loss
from gapless.losses.uniformity import cross_uniformity_loss, uniformity_loss

Term = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]

PRESETS: dict[str, dict[str, float]] = {
    "clip": {"clip": 1.0},
    "cua": {"clip": 1.0, "uniform": 1.0, "align": 1.0},
    "cuaxu": {"clip": 1.0, "uniform": 1.0, "align": 1.0, "cross_uniform": 1.0},
    "siglip": {"siglip": 1.0},
    "none": {},
}
NO_TEMPERATURE = {"uniform", "cross_uniform", "align"}
"""Terms that do not depend on the temperature."""


class Objective:
    """A weighted sum of loss terms over the global batch.

    Args:
        terms: weight by name: ``clip``, ``uniform``, ``cross_uniform``, ``align``, ``siglip``, or
            ``package.module:function`` for a function ``(image_features, text_features, logit_scale) -> scalar``.
        uniform_t: t of the Gaussian kernel in ``uniform`` and ``cross_uniform``.
        align_alpha: power of the distance in ``align``.

    Raises:
        ConfigError: no term, an unknown name, or a function that cannot be imported.
    """

    def __init__(self, terms: Mapping[str, float], uniform_t: float = 2.0, align_alpha: float = 2.0) -> None:
        if not terms:
            raise ConfigError("loss.terms: no term is set, name at least one, for example {clip: 1}")
        built_in: dict[str, Term] = {
            "clip": lambda x, y, scale, bias: clip_loss(x, y, scale),
            "uniform": lambda x, y, scale, bias: uniformity_loss(x, y, uniform_t),
            "cross_uniform": lambda x, y, scale, bias: cross_uniformity_loss(x, y, uniform_t),
            "align": lambda x, y, scale, bias: alignment_loss(x, y, align_alpha),
            "siglip": lambda x, y, scale, bias: siglip_loss(x, y, scale, 0.0 if bias is None else bias),
        }
        self.weights = dict(terms)
        self.terms = {name: built_in[name] if name in built_in else _load_term(name, list(built_in)) for name in terms}

    @property
    def uses_temperature(self) -> bool:
        """Whether any term depends on logit_scale; if none does, it has no gradient."""
        return not set(self.terms) <= NO_TEMPERATURE

    @property
    def uses_bias(self) -> bool:
        """Whether the model needs a logit_bias."""
        return "siglip" in self.terms

    def __call__(
        self, image_features: Tensor, text_features: Tensor, logit_scale: Tensor, logit_bias: Tensor | None = None
    ) -> dict[str, Tensor]:
        """All terms, unweighted, by name, and ``loss``, their weighted sum.

        Args:
            image_features: unit-norm (N, D), the global batch; computed in float32 or wider.
            text_features: unit-norm (N, D).
            logit_scale: scalar, the inverse temperature.
            logit_bias: scalar, for siglip.
        """
        if image_features.shape != text_features.shape or image_features.ndim != 2:
            raise ValueError(
                f"image_features {tuple(image_features.shape)} and text_features {tuple(text_features.shape)} "
                "must be two (N, D) matrices of one shape"
            )
        x, y = (f if f.dtype == torch.float64 else f.float() for f in (image_features, text_features))
        values = {name: term(x, y, logit_scale, logit_bias) for name, term in self.terms.items()}
        return values | {"loss": torch.stack([self.weights[name] * value for name, value in values.items()]).sum()}


def _load_term(name: str, known: list[str]) -> Term:
    """A user's own term, named ``package.module:function``."""
    module, _, function = name.partition(":")
    if not function:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}, or package.module:function"
        raise ConfigError(f"loss.terms.{name}: unknown term, {hint}")
    try:
        own = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"loss.terms.{name}: cannot be imported ({error})") from error
    return lambda x, y, scale, bias: own(x, y, scale)
