"""Scores of a model on a data set. Each is a small object over a pure metric."""

from gapless.eval.embeddings import Embeddings, load_pairs, save_pairs
from gapless.eval.features import embed_classes, embed_images, embed_pairs, embed_texts
from gapless.eval.metrics.retrieval import retrieval_ranks, retrieval_recall
from gapless.eval.metrics.simat import simat_score
from gapless.eval.metrics.zero_shot import zero_shot_accuracy
from gapless.eval.pairs import PairEvaluation, build_pair_evaluation

__all__ = [
    "Embeddings",
    "PairEvaluation",
    "build_pair_evaluation",
    "embed_classes",
    "embed_images",
    "embed_pairs",
    "embed_texts",
    "load_pairs",
    "retrieval_ranks",
    "retrieval_recall",
    "save_pairs",
    "simat_score",
    "zero_shot_accuracy",
]
