"""All simulations by name, as ``gapless simulate`` runs them."""

from collections.abc import Callable
from typing import Any

from gapless.reproduce.bug_or_feature.simulations import ablation, by_number, clusters
from gapless.reproduce.connect_collapse_corrupt.simulations import mlp_collapse, stable_region, two_spans
from gapless.reproduce.simulated import Simulated

SIMULATIONS: dict[str, tuple[str, Callable[..., Simulated], dict[str, Any], dict[str, Any]]] = {
    "mlp-collapse": ("dimensional collapse by depth", mlp_collapse, {}, {"inputs": 300, "width": 64, "depth": 16}),
    "two-spans": (
        "a gap in dimensions without gradient",
        two_spans,
        {},
        {"n": 60, "d": 48, "image_dims": 4, "text_dims": 16, "steps": 30},
    ),
    "stable-region": ("the margin that ends the optimisation, by temperature", stable_region, {}, {"n": 50}),
    "plane": ("two clusters of ten points in the plane keep their gap", clusters, {}, {"steps": 500}),
    "plane-pairs": (
        "what remains of it by the number of points",
        by_number,
        {},
        {"numbers_of_pairs": (5, 8), "steps": 200},
    ),
    "sphere": (
        "two clusters on the sphere of R^3: an orthogonal gap for a while, and none in the end",
        clusters,
        {
            "n": 1000,
            "d": 3,
            "gap": 2.0,
            "sphere": True,
            "steps": 460,
            "lr": 0.01,
            "growth": 1.0,
            "moments": (0.2, 0.6, 1.0, 2.0),
        },
        {"n": 20, "d": 3, "gap": 2.0, "sphere": True, "steps": 300, "lr": 0.002, "growth": 1.0, "moments": (0.2,)},
    ),
    "sphere-512": (
        "the same on the sphere of R^512: the loss vanishes and the gap stays",
        clusters,
        {"n": 1000, "d": 512, "gap": 2.0, "sphere": True, "steps": 170, "lr": 0.01, "growth": 1.0},
        {"n": 40, "d": 64, "gap": 2.0, "sphere": True, "steps": 60, "lr": 0.01, "growth": 1.0},
    ),
    "flat": (
        "no variance along the gap, and yet it closes",
        clusters,
        {"n": 40, "flat": True, "spread": 0.2, "lr": 0.01, "growth": 1.0},
        {"n": 40, "flat": True, "spread": 0.2, "lr": 0.01, "growth": 1.0, "steps": 500},
    ),
    "warm": (
        "temperature 1 closes the gap",
        clusters,
        {"n": 40, "temperature": 1.0, "lr": 0.02, "growth": 1.0},
        {"n": 40, "temperature": 1.0, "lr": 0.02, "growth": 1.0, "steps": 500},
    ),
    "high-dimension": (
        "clusters on the sphere of R^24: S becomes doubly stochastic",
        clusters,
        # In 24 dimensions a variance of 0.01 leaves the gap of 1.8 that the paper names.
        {"n": 500, "d": 24, "gap": 2.0, "sphere": True, "spread": 0.1, "steps": 1500, "growth": 1.0},
        {"n": 40, "d": 16, "gap": 2.0, "sphere": True, "spread": 0.1, "steps": 200, "lr": 0.002, "growth": 1.0},
    ),
    "ablation": (
        "what remains of a gap on the sphere, by temperature, initial gap and dimension",
        ablation,
        {},
        {"n": 8, "temperatures": (0.1, 1.0), "gaps": (0.0, 1.0), "dimensions": (3, 8), "time": 3.0},
    ),
}
"""What it shows, the function, its settings, and settings of seconds."""
