"""Pairs of images and captions, from anywhere, as batches that do not depend on the number of processes."""

from gapless.data.loader import build_eval_data, build_train_data
from gapless.data.pairs import Pair, PairSource
from gapless.data.place import Place
from gapless.data.samples import BadSample, Batch, PairDataset
from gapless.data.sources import build_source

__all__ = [
    "BadSample",
    "Batch",
    "Pair",
    "PairDataset",
    "PairSource",
    "Place",
    "build_eval_data",
    "build_source",
    "build_train_data",
]
