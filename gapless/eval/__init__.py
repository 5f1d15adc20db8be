"""Scores of a model on a data set. Each is a small object over a pure metric."""

from gapless.eval.features import PairFeatures, embed_classes, embed_images, embed_pairs, embed_texts
from gapless.eval.pairs import PairEvaluation
from gapless.eval.retrieval import retrieval_ranks, retrieval_recall
from gapless.eval.simat import simat_score
from gapless.eval.zero_shot import zero_shot_accuracy

__all__ = [
    "PairEvaluation",
    "PairFeatures",
    "embed_classes",
    "embed_images",
    "embed_pairs",
    "embed_texts",
    "retrieval_ranks",
    "retrieval_recall",
    "simat_score",
    "zero_shot_accuracy",
]
