"""Scores of a model on a data set. Each is a small object over a pure metric."""

from gapless.eval.features import PairFeatures, embed_classes, embed_pairs
from gapless.eval.pairs import PairEvaluation
from gapless.eval.retrieval import retrieval_recall
from gapless.eval.zero_shot import zero_shot_accuracy

__all__ = [
    "PairEvaluation",
    "PairFeatures",
    "embed_classes",
    "embed_pairs",
    "retrieval_recall",
    "zero_shot_accuracy",
]
