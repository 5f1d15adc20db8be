"""The contrastive-gap paper ("It's Not a Modality Gap", Fahim et al. 2024): its experiments and its numbers."""
