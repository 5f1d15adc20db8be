"""Models from a configuration, through open_clip: by name, from a folder, or from an architecture in the YAML."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import nn

from gapless.config import ModelConfig
from gapless.errors import ConfigError, DataError, GaplessError
from gapless.models.architecture import (
    KEY,
    build_tokenizer,
    check_architecture,
    create_clip,
    known_name,
    with_own_tower,
)
from gapless.models.clip import ClipModel, Tokenizer
from gapless.models.export import load_export
from gapless.models.fit import PIXELS, load_weights, preprocess_of, refuse_activation
from gapless.models.locking import lock_towers
from gapless.models.twin import TwinModel, make_twin
from gapless.models.weights import QUICK_GELU, Weights, line, read_weights

logger = logging.getLogger(__name__)

SECOND_SEED = 1_000_003
"""What the seed of a twin's second tower lies above that of its first."""
NO_WEIGHTS = "none"
"""Value of ``pretrained`` that asks for random weights."""
LOCAL = "local-dir:"


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
        ConfigError: an unknown name or tag, an architecture that cannot work, mismatched activations.
        DataError: weights or a tokenizer that are missing, damaged, or not those of the model.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if checkpoint is not None:
            model, tokenizer = load_export(checkpoint)
        else:
            model, tokenizer = _build_new(config, initial_bias)
            if config.is_twin and not isinstance(model, TwinModel):
                torch.manual_seed(seed + SECOND_SEED)
                other = model if config.towers == "image-text" else _build_new(config, initial_bias)[0]
                model = make_twin(model, other, config.towers, config.shared_tower)
        _prepare(model, config, new=checkpoint is None)
    return model, tokenizer


def _build_new(config: ModelConfig, initial_bias: float | None) -> tuple[ClipModel, Tokenizer]:
    """The model that a configuration names, with its weights, before projections and temperature are changed."""
    overrides: dict[str, Any] = {} if initial_bias is None else {"init_logit_bias": initial_bias}
    if config.embed_dim and not _has_weights(config):
        overrides["embed_dim"] = config.embed_dim
    if config.architecture is not None:
        return _from_architecture(config.architecture, config, overrides)
    if ":" not in config.name:
        return _from_name(known_name(config.name), config, overrides)
    if config.pretrained:
        raise ConfigError(f"model.pretrained: {config.name} brings its own weights, leave pretrained null")
    if config.name.startswith(LOCAL):
        return _from_folder(Path(config.name.removeprefix(LOCAL)), config, overrides)
    return _from_open_clip(config.name, None, config, overrides)


def _from_architecture(
    architecture: Mapping[str, Any], config: ModelConfig, overrides: Mapping[str, Any]
) -> tuple[ClipModel, Tokenizer]:
    """A model of one's own, with the weights of a file if one is named."""
    check_architecture(architecture)
    architecture = with_own_tower(architecture)
    named = named_weights(config)
    weights = read_weights(Path(named), big_vision=True) if named else None  # before anything is built
    tokenizer = build_tokenizer(architecture, "the architecture")
    with _one_line(KEY, ConfigError, "open_clip cannot build it"):
        clip = create_clip(architecture, None, config.is_twin, _begins_with_towers(config), **overrides)
        model = ClipModel(clip, {**architecture, **overrides}, open_clip.get_model_preprocess_cfg(clip))
        _try_out(model, tokenizer)
    if weights is not None:
        _load(model, weights, "custom")
    return model, tokenizer


def _from_name(name: str, config: ModelConfig, overrides: Mapping[str, Any]) -> tuple[ClipModel, Tokenizer]:
    """One of open_clip's models: with published weights, with those of a file, or from scratch."""
    architecture = open_clip.get_model_config(name)
    named = named_weights(config)
    weights = find_weights_of(name, named)
    tokenizer = build_tokenizer(architecture, name)
    if named and weights is None:
        return _from_open_clip(name, named, config, overrides, tokenizer)
    with _one_line("model.name", DataError, f"{name} cannot be built"):
        clip = create_clip(architecture, None, config.is_twin, _begins_with_towers(config), **overrides)
    model = ClipModel(clip, {**architecture, **overrides}, open_clip.get_model_preprocess_cfg(clip))
    if weights is not None:
        _load(model, weights, name)
    return model, tokenizer


def _begins_with_towers(config: ModelConfig) -> bool:
    """Whether towers of transformers and timm may bring their own weights: nothing is said of any."""
    return config.pretrained in (None, "")


def named_weights(config: ModelConfig) -> str | None:
    """The tag or file that a configuration names."""
    return None if config.pretrained in (None, "", NO_WEIGHTS) else config.pretrained


def find_weights_of(name: str, weights: str | None) -> Weights | None:
    """The weights in a file that is named for one of open_clip's models; None for a tag, which is only checked.

    Raises:
        ConfigError: neither a tag nor a file, or weights of another activation.
        DataError: a file that is none of weights.
    """
    tag = open_clip.get_pretrained_cfg(name, weights) if weights else None
    if tag:
        if tag.get(QUICK_GELU, False) != open_clip.get_model_config(name).get(QUICK_GELU, False):
            refuse_activation(f"{weights} weights", tag.get(QUICK_GELU, False), name)
        return None
    if weights and Path(weights).exists():
        return read_weights(Path(weights), big_vision=True)
    if weights:
        raise ConfigError(f"model.pretrained: {weights!r} is neither a file nor a tag of {name} ({tags_of(name)})")
    return None


def tags_of(name: str) -> str:
    """The tags of a model's published weights, the first few of them."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    more = f" and {len(tags) - 4} more" if len(tags) > 4 else ""
    return f"{', '.join(tags[:4])}{more}" if tags else "it has none"


def _load(model: ClipModel, weights: Weights, name: str) -> None:
    """Load the weights of a file, and take over how they want their pixels."""
    load_weights(model.clip, weights, model.model_config, name)
    pixels = {k: v for k, v in weights.preprocess.items() if k in PIXELS} or preprocess_of(name)
    if not pixels:
        logger.info("%s does not say how pixels are normalised: OpenAI's mean and deviation are used", weights.path)
    model.set_preprocess({**model.preprocess, **pixels})


def _from_folder(folder: Path, config: ModelConfig, overrides: Mapping[str, Any]) -> tuple[ClipModel, Tokenizer]:
    model, tokenizer = load_export(folder, config.is_twin, **overrides)
    if isinstance(model, TwinModel):
        shared = model.clip.text is model.clip.visual
        if (model.towers, shared) != (config.towers, config.shared_tower):
            raise ConfigError(
                f"model.towers: {folder} holds two bare towers, train it with towers={model.towers} "
                f"and shared_tower={str(shared).lower()}"
            )
    return model, tokenizer


def _from_open_clip(
    name: str, tag: str | None, config: ModelConfig, overrides: Mapping[str, Any], tokenizer: Tokenizer | None = None
) -> tuple[ClipModel, Tokenizer]:
    """With weights that open_clip finds or downloads: of a tag, or of a repository."""
    try:
        architecture = open_clip.get_model_config(name)
        tokenizer = tokenizer or open_clip.get_tokenizer(name)
        clip = open_clip.create_model(name, tag, force_custom_text=config.is_twin, require_pretrained=True, **overrides)
    except Exception as error:  # of the hub's client, of downloads, and of open_clip itself
        raise DataError(
            f"model.pretrained: weights {tag + ' ' if tag else ''}of {name} cannot be loaded ({line(error)}); "
            "without a network give a weights file as model.pretrained or a folder as model.name=local-dir:FOLDER"
        ) from None
    if "init_logit_bias" in overrides and "init_logit_bias" not in architecture:
        nn.init.constant_(clip.logit_bias, overrides["init_logit_bias"])  # open_clip fills in 0
    return ClipModel(clip, architecture | overrides, open_clip.get_model_preprocess_cfg(clip)), tokenizer


@contextmanager
def _one_line(key: str, kind: type[GaplessError], failure: str) -> Iterator[None]:
    """Whatever open_clip, timm or transformers raises, as one line."""
    try:
        yield
    except GaplessError:
        raise
    except Exception as error:  # assertions, divisions by zero, missing keys: each tower has its own
        raise kind(f"{key}: {failure} ({type(error).__name__}: {line(error)})") from None


@torch.no_grad()
def _try_out(model: ClipModel, tokenizer: Tokenizer) -> None:
    """Run an architecture of the user's once, so that what does not fit is found before data are loaded."""
    own = getattr(model.clip, "vocab_size", None) or getattr(getattr(model.clip, "text", None), "vocab_size", 0)
    words = getattr(tokenizer, "vocab_size", None) or len(getattr(tokenizer, "tokenizer", ()))
    if own and words > own:
        raise ConfigError(f"{KEY}.text_cfg.vocab_size: {own} does not work, the tokenizer has {words} tokens")
    size = model.preprocess["size"]
    height, width = size if isinstance(size, list | tuple) else (size, size)
    model.eval()
    longest = "a photo of a dog " * model.context_length
    output = model(torch.zeros(1, 3, height, width, dtype=torch.uint8), tokenizer([longest]))
    image, text = output["image_features"].shape[1], output["text_features"].shape[1]
    if image != text:
        raise ConfigError(f"{KEY}: its towers have {image} and {text} dimensions, they must have as many")
    model.train()


def _has_weights(config: ModelConfig) -> bool:
    return named_weights(config) is not None or ":" in config.name


def _prepare(model: ClipModel, config: ModelConfig, new: bool) -> None:
    """Lock towers, replace projections, set the temperature; the last two only where no checkpoint has them."""
    lock_towers(model, config)
    if config.embed_dim and _has_weights(config):
        reset_projections(model, config.embed_dim if new else None)
    if isinstance(config.temperature, float | int) and new:
        model.set_temperature(config.temperature)
    model.clip.logit_scale.requires_grad_(config.learnable_temperature)
    if config.grad_checkpointing:
        model.clip.set_grad_checkpointing()
    model.train()


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
