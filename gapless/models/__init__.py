"""CLIP models: built, wrapped and exported."""

from gapless.models.build import build_model
from gapless.models.clip import ClipModel, Tokenizer
from gapless.models.export import load_export, save_export

__all__ = ["ClipModel", "Tokenizer", "build_model", "load_export", "save_export"]
