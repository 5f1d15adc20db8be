"""Spaces of embeddings for tests of the geometry experiments."""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from gapless.report import Table


def space(n: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images, which vary in one dimension more than texts."""
    generator = torch.Generator().manual_seed(seed)
    x = F.normalize(torch.randn(n, 5, generator=generator), dim=1)
    y = torch.randn(n, 5, generator=generator)
    y[:, 0] = 2.0
    y[:, 1] = 0.0
    return x, F.normalize(y, dim=1)


def keep(folder: Path, epoch: int, seed: int) -> tuple[Tensor, Tensor]:
    """A space among the embeddings that a run kept."""
    (folder / "embeddings").mkdir(parents=True, exist_ok=True)
    x, y = space(20, seed)
    save_file({"image": x, "text": y}, folder / "embeddings" / f"epoch_{epoch:05d}.safetensors")
    return x, y


def texts(table: Table) -> list[list[str]]:
    """What stands in a table."""
    return [[cell.text for cell in row] for row in table.rows]
