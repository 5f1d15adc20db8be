"""Trained models by what a user calls them: a run, an export folder, or an open_clip model."""

from dataclasses import dataclass
from pathlib import Path

import open_clip

from gapless.config import ModelConfig
from gapless.errors import ConfigError
from gapless.models.build import build_model
from gapless.models.clip import ClipModel, Tokenizer
from gapless.models.export import CONFIG, load_export


@dataclass(frozen=True)
class LoadedModel:
    """A model and what results call it."""

    model: ClipModel
    tokenizer: Tokenizer
    name: str
    pretrained: str


def load_model(name: str, pretrained: str | None = None) -> LoadedModel:
    """A model ready to be evaluated.

    Args:
        name: folder of a run (its export), of an export or of a checkpoint; or an open_clip name.
        pretrained: open_clip tag or weights file, for an open_clip name.

    Raises:
        ConfigError: an unknown name or tag.
        DataError: weights that are missing or cannot be read.
    """
    folder = Path(name.removeprefix("local-dir:"))
    for place in (folder / "export", folder):
        if (place / CONFIG).is_file():
            model, tokenizer = load_export(place)
            return LoadedModel(model, tokenizer, folder.resolve().name, str(place))
    if folder.is_dir():
        load_export(folder)  # says what is missing
    if ":" not in name and open_clip.get_model_config(name) is None:
        raise ConfigError(f"{name!r} is neither the folder of a run or an export nor a model of open_clip")
    model, tokenizer = build_model(ModelConfig(name=name, pretrained=pretrained))
    return LoadedModel(model, tokenizer, name, pretrained or "random")
