import logging
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

# Before torch starts its threads: on small tensors they only wait for each other, the more where workers share cores.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ.setdefault("WANDB_MODE", "offline")

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState, GradientState, PartialState

# Processes that tests start find these tests, and not those that some package installs, in any working directory.
ROOT = str(Path(__file__).parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """A test's name holds no bytes: those of a pickle differ in each process, and pytest-xdist compares the names."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def _nothing_of_other_tests() -> Iterator[None]:
    """Seeds, the environment, levels of logging and accelerate's states are those of a fresh process."""
    before = dict(os.environ)
    logging.getLogger("gapless").setLevel(logging.INFO)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()  # it reads its settings once a process
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def unit():
    """Random unit-norm float64 rows."""

    def make(n: int, d: int, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return F.normalize(torch.randn(n, d, dtype=torch.float64, generator=generator), dim=1)

    return make
