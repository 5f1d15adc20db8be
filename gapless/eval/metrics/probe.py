"""Linear probe: how well classes can be read off frozen features by a linear map.

Axis letters: N images, C classes, D dimensions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def fit_linear_probe(features: Tensor, labels: Tensor, num_classes: int, weight_decay: float = 1e-3) -> Tensor:
    """Multinomial logistic regression by L-BFGS on all data at once, on the device of the features.

    Args:
        features: (N, D).
        labels: int64 (N,).
        num_classes: C.
        weight_decay: half the squared weights, the bias left out, are added to the mean cross-entropy with this factor.

    Returns:
        (C, D + 1), the bias last.
    """
    weights = torch.zeros(num_classes, features.shape[1] + 1, device=features.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=500, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(features, weights[:, :-1], weights[:, -1]), labels)
        loss = loss + weight_decay * weights[:, :-1].square().sum() / 2
        torch.autograd.backward(loss)
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weights.detach()


def probe_scores(weights: Tensor, features: Tensor) -> Tensor:
    """Logits (N, C) of a probe."""
    return F.linear(features, weights[:, :-1], weights[:, -1])
