"""Is the modality gap a bug or a feature? (Chowers et al. 2026): its experiments and simulations."""
