"""Trained models by what a user calls them: a run, an export folder, or an open_clip model."""

import logging
from dataclasses import dataclass
from pathlib import Path

from gapless.config import ModelConfig
from gapless.errors import ConfigError
from gapless.models.architecture import known_name
from gapless.models.build import LOCAL, NO_WEIGHTS, build_model, find_weights_of, tags_of
from gapless.models.clip import ClipModel, Tokenizer
from gapless.models.export import find_weights, load_export, read_export_config
from gapless.run_folder import CLIP_CONFIG, export_of

logger = logging.getLogger(__name__)

RANDOM = "random weights"
"""What results and pages call the weights of a model that has none."""


@dataclass(frozen=True)
class LoadedModel:
    """A model and what results call it."""

    model: ClipModel
    tokenizer: Tokenizer
    name: str
    pretrained: str

    @property
    def title(self) -> str:
        """The name as tables show it."""
        return f"{self.name} ({RANDOM})" if self.pretrained == RANDOM else self.name


def check_model(name: str, pretrained: str | None = None) -> Path | None:
    """Find a model without loading it, so that a slip is refused before hours of work.

    Args:
        name: folder of a run (its export), of an export or of a checkpoint; or an open_clip name.
        pretrained: open_clip tag or weights file of an open_clip name, or none for random weights.

    Returns:
        The folder that holds it, or None for an open_clip name.

    Raises:
        ConfigError: an unknown name or tag, a name without weights, weights for a folder that has its own.
        DataError: a folder without a model, a file that holds no weights.
    """
    folder = Path(name.removeprefix(LOCAL))
    if folder.is_dir() or name.startswith(LOCAL):
        place = export_of(folder, CLIP_CONFIG)
        read_export_config(place)
        find_weights(place)
    elif ":" not in name:
        if folder.is_file():
            raise ConfigError(
                f"{name} is a file: name the model of open_clip that it belongs to, and the file as pretrained"
            )
        try:
            name = known_name(name)
        except ConfigError as error:
            reason = str(error).removeprefix("model.name: ")
            raise ConfigError(
                f"{name!r} is neither the folder of a run or an export nor a model of open_clip: {reason}"
            ) from None
        if pretrained is None:
            raise ConfigError(
                f"pretrained: {name} needs weights, a file or a tag ({tags_of(name)}); none stands for random weights"
            )
        find_weights_of(name, None if pretrained == NO_WEIGHTS else pretrained)
        return None
    else:
        place = None
    if pretrained is not None:
        raise ConfigError(f"pretrained: {name} brings its own weights, leave {pretrained!r} out")
    return place


def load_model(name: str, pretrained: str | None = None) -> LoadedModel:
    """A model ready to be evaluated.

    Args:
        name: folder of a run (its export), of an export or of a checkpoint; or an open_clip name.
        pretrained: open_clip tag or weights file of an open_clip name, or none for random weights.

    Raises:
        ConfigError: an unknown name or tag, a name without weights, weights for a folder that has its own.
        DataError: weights or a tokenizer that are missing or cannot be read.
    """
    place = check_model(name, pretrained)
    if place is not None:
        model, tokenizer = load_export(place)
        return LoadedModel(model, tokenizer, Path(name.removeprefix(LOCAL)).resolve().name, str(place))
    model, tokenizer = build_model(ModelConfig(name=name, pretrained=pretrained))
    if pretrained == NO_WEIGHTS:
        logger.warning("%s has %s", name, RANDOM)
    return LoadedModel(model, tokenizer, name, RANDOM if pretrained == NO_WEIGHTS else pretrained or name)
