"""Models from a configuration, through open_clip: by name, from a folder, or from an architecture in the YAML."""

import json
import tempfile
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors import SafetensorError
from torch import nn

from gapless.config import ModelConfig
from gapless.errors import ConfigError, DataError
from gapless.models.clip import ClipModel, Tokenizer
from gapless.models.export import CONFIG, load_export
from gapless.models.twin import make_twin

SECOND_SEED = 1_000_003
"""What the seed of a twin's second tower lies above that of its first."""


def build_model(
    config: ModelConfig, seed: int = 0, initial_bias: float | None = None, checkpoint: Path | None = None
) -> tuple[ClipModel, Tokenizer]:
    """A model ready to train, and its tokenizer.

    Args:
        config: the model part of the configuration.
        seed: of random weights; the global generator is left as it was.
        initial_bias: of the logit_bias that siglip needs; None for none.
        checkpoint: folder of a checkpoint whose architecture and weights replace those of the configuration.

    Raises:
        ConfigError: an unknown name or tag, an architecture that open_clip refuses, mismatched activations.
        DataError: weights that cannot be downloaded or read.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if checkpoint is not None:
            model, tokenizer = load_export(checkpoint)
        else:
            model, tokenizer = _build_new(config, initial_bias)
            if config.is_twin:
                torch.manual_seed(seed + SECOND_SEED)
                other = model if config.towers == "image-text" else _build_new(config, initial_bias)[0]
                model = make_twin(model, other, config.towers, config.shared_tower)
        _prepare(model, config, new=checkpoint is None)
    return model, tokenizer


def _build_new(config: ModelConfig, initial_bias: float | None) -> tuple[ClipModel, Tokenizer]:
    """The model that a configuration names, as open_clip makes it."""
    if config.architecture is None:
        _check_name(config)
        return _create(config.name, config, initial_bias)
    with tempfile.TemporaryDirectory() as folder:
        tree = {"model_cfg": config.architecture, "preprocess_cfg": {}}
        (Path(folder) / CONFIG).write_text(json.dumps(tree))
        return _create(f"local-dir:{folder}", config, initial_bias)


def _check_name(config: ModelConfig) -> None:
    """Refuse what open_clip would only warn of, or would report at length, before anything is downloaded."""
    if ":" in config.name:
        if config.pretrained:
            raise ConfigError(f"model.pretrained: {config.name} brings its own weights, leave pretrained null")
        return
    architecture = open_clip.get_model_config(config.name)
    if architecture is None:
        raise ConfigError(f"model.name: open_clip has no model {config.name!r}; open_clip.list_models() names them all")
    if not config.pretrained or Path(config.pretrained).is_file():
        return
    tag = open_clip.get_pretrained_cfg(config.name, config.pretrained)
    if not tag:
        tags = open_clip.list_pretrained_tags_by_model(config.name)
        raise ConfigError(
            f"model.pretrained: {config.pretrained!r} is neither a file nor a tag of {config.name} ({', '.join(tags)})"
        )
    if tag.get("quick_gelu", False) != architecture.get("quick_gelu", False):
        other = f"{config.name}-quickgelu" if tag.get("quick_gelu") else config.name.removesuffix("-quickgelu")
        raise ConfigError(f"model.name: {config.pretrained} weights were trained with another activation, use {other}")


def _create(name: str, config: ModelConfig, initial_bias: float | None) -> tuple[ClipModel, Tokenizer]:
    """The open_clip model with its weights, before projections and temperature are changed."""
    overrides: dict[str, Any] = {} if initial_bias is None else {"init_logit_bias": initial_bias}
    if config.embed_dim and not _has_weights(name, config):
        overrides["embed_dim"] = config.embed_dim
    try:
        clip = open_clip.create_model(name, config.pretrained, force_custom_text=config.is_twin, **overrides)
        tokenizer = open_clip.get_tokenizer(name)
        architecture = open_clip.get_model_config(name)
    except FileNotFoundError as error:
        raise DataError(f"model.name: {error}") from None
    except (TypeError, KeyError, ValueError) as error:
        key = "architecture" if config.architecture else "name"
        raise ConfigError(f"model.{key}: open_clip cannot build it ({type(error).__name__}: {_line(error)})") from None
    except (RuntimeError, OSError, SafetensorError) as error:
        raise DataError(
            f"model.pretrained: weights {config.pretrained or ''} of {config.name} cannot be loaded ({_line(error)}); "
            "without a network give a weights file as model.pretrained or a folder as model.name=local-dir:FOLDER"
        ) from None
    if initial_bias is not None and "init_logit_bias" not in architecture:
        nn.init.constant_(clip.logit_bias, initial_bias)  # open_clip fills in 0 where weights bring no bias
    return ClipModel(clip, architecture | overrides, open_clip.get_model_preprocess_cfg(clip)), tokenizer


def _line(error: Exception) -> str:
    """The first words of an error that may be long."""
    return " ".join(str(error).split())[:160]


def _has_weights(name: str, config: ModelConfig) -> bool:
    if config.architecture is not None:
        return False
    return config.pretrained is not None or ":" in name


def _prepare(model: ClipModel, config: ModelConfig, new: bool) -> None:
    """Lock towers, replace projections, set the temperature; the last two only where no checkpoint has them."""
    if config.lock_image:
        model.clip.lock_image_tower(unlocked_groups=config.lock_image_unlocked_groups)
    if config.lock_text:
        model.clip.lock_text_tower(unlocked_layers=config.lock_text_unlocked_groups)
    if config.embed_dim and _has_weights(config.name, config):
        reset_projections(model, config.embed_dim if new else None)
    if isinstance(config.temperature, float | int) and new:
        model.set_temperature(config.temperature)
    model.clip.logit_scale.requires_grad_(config.learnable_temperature)
    if config.grad_checkpointing:
        model.clip.set_grad_checkpointing()


def reset_projections(model: ClipModel, embed_dim: int | None) -> None:
    """Replace both projections by random ones to a new dimension, trainable even in a locked tower.

    As in the contrastive-gap paper: no bias, uniform in +-1/sqrt(width) (torch's default for a linear layer), and
    replaced even if the dimension stays the same. None keeps their weights and makes them trainable.

    Raises:
        ConfigError: a tower whose projection is not a single matrix.
    """
    text = model.clip if hasattr(model.clip, "text_projection") else model.clip.text
    for tower, name in ((model.clip.visual, "proj"), (text, "text_projection")):
        old = getattr(tower, name, None)
        if not isinstance(old, nn.Parameter):
            raise ConfigError(f"model.embed_dim: {type(tower).__name__} has no single projection matrix to replace")
        old.requires_grad_(True)
        if embed_dim is not None:
            new = torch.empty(old.shape[0], embed_dim)
            setattr(tower, name, nn.Parameter(nn.init.uniform_(new, -(old.shape[0] ** -0.5), old.shape[0] ** -0.5)))
    if embed_dim is not None:
        model.model_config["embed_dim"] = embed_dim
