"""Experiments: each a list of runs and the table that it fills."""
