"""The terms of the objective: one record each, read by the objective and, without torch, by ``--help``.

A term is added by a function in :mod:`gapless.losses` and a record here.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class LossTerm:
    """What the objective has to know of a term."""

    function: str
    """Where its function is within :mod:`gapless.losses`. Its parameters say what it gets: image_features,
    text_features, logit_scale, logit_bias, groups, t (loss.uniform_t), alpha (loss.align_alpha), hardness."""
    tiled: str = ""
    """Name in :mod:`gapless.losses.distributed` of its tiled form, for a term over all pairs of a batch."""
    least_pairs: int = 1
    """Pairs of the smallest batch that has a value of it."""
    initial_bias: float | None = None
    """Where the model's logit_bias starts, for a term that has one."""


TERMS = {
    "clip": LossTerm("clip.clip_loss", "CLIP"),
    "uniform": LossTerm("uniformity.uniformity_loss", "UNIFORM", least_pairs=2),
    "cross_uniform": LossTerm("uniformity.cross_uniformity_loss", "CROSS_UNIFORM", least_pairs=2),
    "align": LossTerm("alignment.alignment_loss"),
    "centroid": LossTerm("alignment.centroid_loss"),
    "centroid_uniform": LossTerm("uniformity.centroid_uniformity_loss", "CENTROID_UNIFORM", least_pairs=2),
    "cross_attract": LossTerm("uniformity.cross_attraction_loss", "CROSS_ATTRACT"),
    "siglip": LossTerm("clip.siglip_loss", "SIGLIP", initial_bias=-10.0),
    # At SigLIP's temperature of 0.1 its bias of -10 is a relative one of -1.
    "siglip_relative": LossTerm("clip.relative_siglip_loss", "RELATIVE_SIGLIP", initial_bias=-1.0),
    "simclr": LossTerm("clip.simclr_loss", "SIMCLR"),
    "cyclip": LossTerm("structure.cyclip_loss"),
    "cyclip_in_modal": LossTerm("structure.cyclip_in_modal_loss"),
    "cyclip_cross_modal": LossTerm("structure.cyclip_cross_modal_loss"),
    "koleo": LossTerm("structure.koleo_loss", "KOLEO", least_pairs=2),
}
