"""Which parameters of a model are trained: towers that are locked, and parts that nothing depends on."""

from typing import Any

import torch
from open_clip.model import lock_text_tower
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gapless.config import ModelConfig
from gapless.errors import ConfigError
from gapless.models.clip import SCALARS, ClipModel


def lock_towers(model: ClipModel, config: ModelConfig) -> None:
    """Freeze the towers that a configuration locks, but for their last groups.

    Raises:
        ConfigError: a tower that cannot be locked in part, or groups without a lock.
    """
    for key in ("lock_image", "lock_text"):
        groups = getattr(config, f"{key}_unlocked_groups")
        if groups and not getattr(config, key):
            raise ConfigError(f"model.{key}_unlocked_groups: {groups} says nothing while model.{key} is false")
    if config.lock_image:
        _lock(model.clip.visual, "lock_image", config.lock_image_unlocked_groups)
    if config.lock_text:
        tower = model.clip.text if hasattr(model.clip, "text") else model.clip
        _lock(tower, "lock_text", config.lock_text_unlocked_groups)


def _lock(tower: Any, key: str, unlocked_groups: int) -> None:
    try:
        if hasattr(tower, "lock"):
            tower.lock(unlocked_groups)
        else:  # the text tower of open_clip's CLIP is no module of its own
            lock_text_tower(tower, unlocked_groups)
    except Exception as error:  # open_clip's towers answer with assertions, missing imports and others
        raise ConfigError(
            f"model.{key}_unlocked_groups: {type(tower).__name__} cannot be unlocked in part "
            f"({type(error).__name__}: {' '.join(str(error).split())[:100]}), 0 locks all of it"
        ) from None


def freeze_unreached(model: ClipModel) -> None:
    """Freeze what neither feature depends on, such as the decoder of a CoCa: DDP would wait for its gradient."""
    trained = [p for n, p in model.clip.named_parameters() if p.requires_grad and n not in SCALARS]
    if not trained or not (hasattr(model.clip, "text_decoder") or _gives_tokens(model.clip)):
        return
    training = model.training
    output = model.train(False)(*_blank_inputs(model))
    total = output["image_features"].sum() + output["text_features"].sum()
    gradients = torch.autograd.grad(total, trained, allow_unused=True)
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
    model.train(training)


def _blank_inputs(model: ClipModel) -> tuple[Tensor, Tensor]:
    size = model.preprocess["size"]
    height, width = size if isinstance(size, list | tuple) else (size, size)
    images = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    tokens = torch.zeros(2, model.context_length, dtype=torch.long)
    towers = getattr(model, "towers", "image-text")
    return tokens if towers == "text-text" else images, images if towers == "image-image" else tokens


def _gives_tokens(clip: Any) -> bool:
    return any(getattr(tower, "output_tokens", False) for tower in (clip.visual, getattr(clip, "text", None)))


def trained_batch_norms(model: nn.Module) -> list[str]:
    """Names of the batch normalisations that learn from batches, in a model in training mode."""
    return [name for name, module in model.named_modules() if isinstance(module, _BatchNorm) and module.training]


def synchronise_batch_norms(model: ClipModel) -> None:
    """Let batch normalisations take their statistics from the batches of all processes (on GPUs only)."""
    model.clip = convert_sync_batchnorm(model.clip)  # type: ignore[no-untyped-call]
