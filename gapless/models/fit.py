"""Weights of a file into a model: other spellings understood, other architectures and activations refused."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.convert import convert_state_dict, load_big_vision_weights
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed
from torch import Tensor, nn

from gapless.errors import ConfigError, DataError
from gapless.models.clip import SCALARS
from gapless.models.weights import QUICK_GELU, Weights, foreign, line

logger = logging.getLogger(__name__)

ACTIVATIONS = {True: "QuickGELU", False: "GELU"}
PIXELS = ("mean", "std", "interpolation", "resize_mode")
"""Keys of preprocess_cfg that change what a model sees."""


def load_weights(clip: nn.Module, weights: Weights, architecture: Mapping[str, Any], name: str) -> None:
    """Load weights that a configuration names beside an architecture.

    Args:
        clip: open_clip's model of the architecture.
        weights: of a file.
        architecture: open_clip's model_cfg.
        name: the architecture's name, or custom.

    Raises:
        ConfigError: weights of another activation.
        DataError: those of another architecture.
    """
    if weights.big_vision:
        _load_big_vision(clip, weights.path)
        return
    fit_weights(clip, weights, name)
    _check_activation(weights, bool(architecture.get(QUICK_GELU, False)), name)


def fit_weights(clip: nn.Module, weights: Weights, name: str) -> None:
    """Load tensors strictly; position embeddings of another length are interpolated, as open_clip does it.

    Raises:
        DataError: they do not fit.
    """
    other = foreign(weights.tensors)
    if other:
        raise DataError(f"{weights.path} holds {other}")
    try:
        state = _spelled_for(clip, weights.tensors)
    except (KeyError, AttributeError, RuntimeError, ValueError, TypeError, IndexError) as error:
        raise DataError(f"{weights.path} does not fit {name}: {type(error).__name__} {line(error)}") from None
    difference = _difference(state, clip.state_dict())
    if difference:
        raise DataError(f"{weights.path} holds the weights of another architecture than {name}: {difference}")
    clip.load_state_dict(state)


def _spelled_for(clip: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the names and shapes that a model has, as open_clip.load_checkpoint makes it."""
    state: dict[str, Tensor] = convert_state_dict(clip, dict(tensors))
    if "positional_embedding" in state and not hasattr(clip, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    own = clip.state_dict()
    for name in SCALARS:
        if name in state and name in own:
            state[name] = state[name].reshape(own[name].shape)
    if "logit_bias" in own:
        state.setdefault("logit_bias", own["logit_bias"])
    positions = "text.transformer.embeddings.position_ids"  # transformers stored it until 4.31
    if positions not in own:
        state.pop(positions, None)
    resize_pos_embed(state, clip)
    resize_text_pos_embed(state, clip)
    return state


def _difference(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """The first thing that two state dicts do not have in common; empty for none."""
    for name, tensor in own.items():
        if name in state and state[name].shape != tensor.shape:
            return f"{name} is {list(state[name].shape)} in the file and {list(tensor.shape)} in the model"
    for side, one, two in (("the file lacks", own, state), ("the model lacks", state, own)):
        lacking = [name for name in one if name not in two]
        if lacking:
            return f"{side} {lacking[0]}" + (f" and {len(lacking) - 1} more" if lacking[1:] else "")
    return ""


def _load_big_vision(clip: nn.Module, path: Path) -> None:
    try:
        with torch.no_grad():
            load_big_vision_weights(clip, str(path))
    except (KeyError, ValueError, RuntimeError, AttributeError, AssertionError, TypeError, OSError) as error:
        with np.load(path, allow_pickle=False) as arrays:
            held = ", ".join(list(arrays)[:3])
        reason = f"{type(error).__name__}: {line(error)}"
        raise DataError(
            f"{path} (arrays {held} ...) is no SigLIP of big_vision that fits the model ({reason})"
        ) from None


def _check_activation(weights: Weights, quick_gelu: bool, name: str) -> None:
    """Refuse weights that were trained with the other activation; where nothing says it, log which one is used."""
    if weights.quick_gelu is None:
        other = name.removesuffix("-quickgelu") if quick_gelu else f"{name}-quickgelu"
        hint = f"; {ACTIVATIONS[not quick_gelu]} is {other}" if open_clip.get_model_config(other) else ""
        logger.info(
            "%s does not say with which activation it was trained: %s has %s%s",
            weights.path,
            name,
            ACTIVATIONS[quick_gelu],
            hint,
        )
    elif weights.quick_gelu != quick_gelu:
        refuse_activation(f"the weights in {weights.path}", weights.quick_gelu, name)


def refuse_activation(weights: str, quick_gelu: bool, name: str) -> None:
    """Raise ConfigError that says which model has the activation of some weights."""
    other = f"{name}-quickgelu" if quick_gelu else name.removesuffix("-quickgelu")
    if open_clip.get_model_config(other):
        raise ConfigError(f"model.name: {weights} were trained with another activation, use {other}")
    raise ConfigError(
        f"model.architecture.quick_gelu: {weights} were trained with {ACTIVATIONS[quick_gelu]}, "
        f"set it to {str(quick_gelu).lower()}"
    )


def preprocess_of(name: str) -> dict[str, Any]:
    """How all published weights of a model want their pixels, where they agree; else nothing."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    pixels = [{k: v for k, v in open_clip.get_pretrained_cfg(name, tag).items() if k in PIXELS} for tag in tags]
    return pixels[0] if pixels and all(other == pixels[0] for other in pixels) else {}
