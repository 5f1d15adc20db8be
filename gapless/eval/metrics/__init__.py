"""Pure metrics: from features, labels or texts to numbers."""
