"""CLIP models: built, wrapped and exported."""

from gapless.models.build import NO_WEIGHTS, build_model
from gapless.models.clip import ClipModel, Tokenizer
from gapless.models.export import load_export, save_export
from gapless.models.load import RANDOM, LoadedModel, check_model, load_model
from gapless.models.locking import freeze_unreached, synchronise_batch_norms, trained_batch_norms
from gapless.models.twin import TwinModel

__all__ = [
    "NO_WEIGHTS",
    "RANDOM",
    "ClipModel",
    "LoadedModel",
    "Tokenizer",
    "TwinModel",
    "build_model",
    "check_model",
    "freeze_unreached",
    "load_export",
    "load_model",
    "save_export",
    "synchronise_batch_norms",
    "trained_batch_norms",
]
