"""CLIP models: built, wrapped and exported."""

from gapless.models.build import build_model
from gapless.models.clip import ClipModel, Tokenizer
from gapless.models.export import load_export, save_export
from gapless.models.load import LoadedModel, load_model
from gapless.models.twin import TwinModel

__all__ = [
    "ClipModel",
    "LoadedModel",
    "Tokenizer",
    "TwinModel",
    "build_model",
    "load_export",
    "load_model",
    "save_export",
]
