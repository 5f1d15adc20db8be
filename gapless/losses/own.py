"""Terms of users' own, named by where they are imported from."""

import difflib
import importlib
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gapless.errors import ConfigError
from gapless.loss_terms import TERMS

Own = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(image_features, text_features, logit_scale) to a scalar."""
TRIED, TRIED_DIM = 8, 16
"""Pairs and dimensions on which a user's own term is tried."""


def load_term(name: str) -> Own:
    """The function that ``package.module:function`` names.

    Raises:
        ConfigError: it cannot be imported or called, or gives no scalar with a gradient.
    """
    module, _, function = name.partition(":")
    if not function:
        close = difflib.get_close_matches(name, TERMS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(TERMS)}, or package.module:function"
        raise ConfigError(f"loss.terms.{name}: unknown term, {hint}")
    try:
        own: Own = getattr(importlib.import_module(module), function)
    except (Exception, SystemExit) as error:  # the module is the user's: it may hold or raise anything
        raise ConfigError(f"loss.terms.{name}: cannot be imported ({_in_a_line(error)})") from error
    if not callable(own):
        raise ConfigError(f"loss.terms.{name}: {function} is no function but {type(own).__name__}")
    _try_term(name, own)
    return own


def _try_term(name: str, own: Own) -> None:
    """Call a user's term once on a few pairs, so that a slip in it is found before any data is read."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        x, y = (normalize(torch.randn(TRIED, TRIED_DIM), dim=1).requires_grad_() for _ in range(2))
        try:
            value = own(x, y, torch.tensor(10.0, requires_grad=True))
        except Exception as error:
            raise ConfigError(
                f"loss.terms.{name}: called with image_features and text_features of shape ({TRIED}, {TRIED_DIM}) "
                f"and logit_scale, it raises {_in_a_line(error)}"
            ) from error
    if not isinstance(value, Tensor) or value.dim() or not value.is_floating_point():
        kind = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ConfigError(f"loss.terms.{name}: it returns {kind}, it must return a scalar tensor of floats")
    if not value.requires_grad:
        raise ConfigError(f"loss.terms.{name}: what it returns has no gradient, so that it trains nothing")


def _in_a_line(error: BaseException) -> str:
    """An error of other people's code in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
