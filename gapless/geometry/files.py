"""Embedding files, read and checked."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gapless.errors import DataError


def load_embeddings(path: Path) -> tuple[Tensor, bool]:
    """Read an (N, D) matrix from a .npy file.

    Args:
        path: the file; any float type.

    Returns:
        unit-norm (N, D) float32, and whether the rows had to be normalised.

    Raises:
        DataError: not a matrix, empty, not finite, or with a row of zeros; the message names the file.
    """
    try:
        # allow_pickle stays off: an embedding file is an array and never code.
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path} is not there") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is not a .npy file of numbers ({error})") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiu":
        shape = getattr(array, "shape", "an archive of arrays")
        raise DataError(f"{path} must be one matrix (N, D) of numbers, it is {shape}")
    if array.size == 0:
        raise DataError(f"{path} is empty, its shape is {array.shape}")
    features = torch.from_numpy(array.astype(np.float32))
    broken = (~features.isfinite().all(dim=1)).nonzero().flatten()
    if len(broken):
        raise DataError(f"{path} has NaN or infinity in {len(broken)} rows, the first is row {int(broken[0])}")
    norms = features.norm(dim=1)
    zero = (norms == 0).nonzero().flatten()
    if len(zero):
        raise DataError(
            f"{path} has {len(zero)} rows of zeros, the first is row {int(zero[0])}; they have no direction"
        )
    return F.normalize(features, dim=1), bool(((norms - 1).abs() > 1e-3).any())


def load_pair(images: Path, texts: Path) -> tuple[Tensor, Tensor, list[str]]:
    """Read two files whose rows belong together.

    Returns:
        unit-norm features of both, and the files whose rows had to be normalised.

    Raises:
        DataError: as :func:`load_embeddings`, or shapes that do not match.
    """
    (x, x_changed), (y, y_changed) = load_embeddings(images), load_embeddings(texts)
    if x.shape != y.shape:
        raise DataError(f"{images} is {tuple(x.shape)} and {texts} is {tuple(y.shape)}: row i of both must be one pair")
    if len(x) < 5:
        raise DataError(f"{images} has {len(x)} rows, gap metrics need at least 5 pairs")
    return x, y, [str(p) for p, changed in ((images, x_changed), (texts, y_changed)) if changed]
