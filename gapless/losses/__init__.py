"""Loss terms as pure functions of unit-norm features, and the objective that sums them."""

from gapless.losses.alignment import alignment_loss, centroid_loss
from gapless.losses.clip import clip_loss, siglip_loss, simclr_loss
from gapless.losses.objective import PRESETS, Objective
from gapless.losses.structure import cyclip_cross_modal_loss, cyclip_in_modal_loss, cyclip_loss, koleo_loss
from gapless.losses.uniformity import (
    centroid_uniformity_loss,
    cross_attraction_loss,
    cross_uniformity_loss,
    intra_uniformity,
    uniformity_loss,
)

__all__ = [
    "PRESETS",
    "Objective",
    "alignment_loss",
    "centroid_loss",
    "centroid_uniformity_loss",
    "clip_loss",
    "cross_attraction_loss",
    "cross_uniformity_loss",
    "cyclip_cross_modal_loss",
    "cyclip_in_modal_loss",
    "cyclip_loss",
    "intra_uniformity",
    "koleo_loss",
    "siglip_loss",
    "simclr_loss",
    "uniformity_loss",
]
