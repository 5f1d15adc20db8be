"""Loss terms as pure functions of unit-norm features, and the objective that sums them."""

from gapless.losses.alignment import alignment_loss
from gapless.losses.clip import clip_loss, siglip_loss
from gapless.losses.objective import PRESETS, Objective
from gapless.losses.uniformity import cross_uniformity_loss, intra_uniformity, uniformity_loss

__all__ = [
    "PRESETS",
    "Objective",
    "alignment_loss",
    "clip_loss",
    "cross_uniformity_loss",
    "siglip_loss",
    "intra_uniformity",
    "uniformity_loss",
]
