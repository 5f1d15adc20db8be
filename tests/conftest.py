import os

# Before torch starts its threads: small tensors on few cores are slower with many threads than with one.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("WANDB_MODE", "offline")

import pytest
import torch
import torch.nn.functional as F


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def unit():
    """Random unit-norm float64 rows."""

    def make(n: int, d: int, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return F.normalize(torch.randn(n, d, dtype=torch.float64, generator=generator), dim=1)

    return make
