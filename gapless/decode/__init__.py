"""Cross-modal tasks from one modality: decoders over embeddings (connect, collapse, corrupt)."""

from gapless.decode.captions.captioner import Captioner, Decoding, load_captioner, save_captioner
from gapless.decode.captions.training import train_captioner
from gapless.decode.store import Features, FeatureStore, save_features, save_means
from gapless.decode.transforms import Preparation, collapse, corrupt

__all__ = [
    "Captioner",
    "Decoding",
    "FeatureStore",
    "Features",
    "Preparation",
    "collapse",
    "corrupt",
    "load_captioner",
    "save_captioner",
    "save_features",
    "save_means",
    "train_captioner",
]
