"""What a pair of embedding clouds looks like, and how to move it."""

from gapless.geometry.closing import close_gap
from gapless.geometry.gap import (
    centroid_distance,
    gap_metrics,
    linear_separability,
    separability_hits,
    smooth_measures,
)
from gapless.geometry.jackknife import pseudo_values
from gapless.geometry.robustness import quantisation_robustness, robustness
from gapless.geometry.spectrum import effective_dimension, effective_rank, explained_variance
from gapless.geometry.statistics import cosine_statistics, gap_statistics
from gapless.geometry.transform import Transform
from gapless.geometry.whole import bootstrap_gap, gap_verdict, whole_gap

__all__ = [
    "Transform",
    "bootstrap_gap",
    "centroid_distance",
    "close_gap",
    "cosine_statistics",
    "effective_dimension",
    "effective_rank",
    "explained_variance",
    "gap_metrics",
    "gap_statistics",
    "gap_verdict",
    "linear_separability",
    "pseudo_values",
    "quantisation_robustness",
    "robustness",
    "separability_hits",
    "smooth_measures",
    "whole_gap",
]
