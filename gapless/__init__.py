"""gapless: train and fine-tune CLIP without the contrastive gap."""

__version__ = "0.1.0"
