"""What a pair of embedding clouds looks like."""

from gapless.geometry.gap import centroid_distance, gap_metrics, linear_separability
from gapless.geometry.spectrum import effective_dimension, explained_variance

__all__ = ["centroid_distance", "effective_dimension", "explained_variance", "gap_metrics", "linear_separability"]
