"""Captions from embeddings: a decoder that is trained on one modality and used on the other."""
