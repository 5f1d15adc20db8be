"""Embedding files, read and checked: .npy, .npz and .safetensors, and what a run keeps."""

from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gapless.errors import DataError

ARRAYS = (".npy", ".npz", ".safetensors")


def load_embeddings(path: Path, name: str = "", rows: int | None = None, seed: int = 0) -> tuple[Tensor, bool]:
    """Read an (N, D) matrix.

    Args:
        path: .npy (read where it lies, so that it may be larger than memory), .npz or .safetensors; any number type.
        name: of the array in a file of several, image or text.
        rows: take only so many, a random choice in their order that is the same for files of equal length.
        seed: of the choice.

    Returns:
        unit-norm (N, D) float32, and whether the rows had to be normalised.

    Raises:
        DataError: not a matrix, empty, not finite, or with a row of zeros; the message names the file.
    """
    array = _read(path, name)
    shape = getattr(array, "shape", None)
    if shape is None or len(shape) != 2 or array.dtype.kind not in "fiu":
        raise DataError(f"{path} must be one matrix (N, D) of numbers, it is {shape or 'an archive of arrays'}")
    if 0 in shape:
        raise DataError(f"{path} is empty, its shape is {shape}")
    if rows is not None and rows < len(array):
        chosen = torch.randperm(len(array), generator=torch.Generator().manual_seed(seed))[:rows].sort().values
        array = array[chosen.numpy()]
    need, free = 4 * array.shape[0] * array.shape[1], psutil.virtual_memory().available
    if need > free:
        told = f"{need / 2**30:.1f} GiB of memory, {free / 2**30:.1f} are free"
        raise DataError(f"{path} needs {told}; --rows takes a part of it")
    features = torch.from_numpy(np.array(array, dtype=np.float32))
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


def _read(path: Path, name: str) -> Any:
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "np") as file:
                return file.get_tensor(_chosen(path, list(file.keys()), name))
        # allow_pickle stays off: an embedding file is an array and never code.
        found = np.load(path, allow_pickle=False, mmap_mode="r" if path.suffix == ".npy" else None)
        return found[_chosen(path, list(found.files), name)] if isinstance(found, np.lib.npyio.NpzFile) else found
    except FileNotFoundError:
        raise DataError(f"{path} is not there") from None
    except (OSError, ValueError, EOFError, SafetensorError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        kind = path.suffix if path.suffix in ARRAYS else " or ".join(ARRAYS)
        raise DataError(f"{path} is not a {kind} file of numbers ({error})") from None


def _chosen(path: Path, names: list[str], wanted: str) -> str:
    """The array meant: that of the name, or the only one."""
    for name in (wanted, f"{wanted}s", f"{wanted}_features", f"{wanted}_embeddings"):
        if name in names:
            return name
    if len(names) == 1:
        return names[0]
    raise DataError(f"{path} has the arrays {', '.join(names)}, and none is called {wanted}")


def load_sides(images: Path, texts: Path, rows: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor, list[str]]:
    """Read images and texts, paired or not; both paths may be one file of arrays ``image`` and ``text``.

    Returns:
        unit-norm features of both, and the files whose rows had to be normalised.

    Raises:
        DataError: as :func:`load_embeddings`, different dimensions, or fewer than 5 rows.
    """
    (x, x_changed), (y, y_changed) = (
        load_embeddings(path, name, rows, seed) for path, name in ((images, "image"), (texts, "text"))
    )
    if x.shape[1] != y.shape[1]:
        raise DataError(f"{images} has {x.shape[1]} dimensions, {texts} has {y.shape[1]}: they share no space")
    for path, features in ((images, x), (texts, y)):
        if len(features) < 5:
            raise DataError(f"{path} has {len(features)} rows, gap metrics need at least 5")
    return x, y, [str(p) for p, changed in ((images, x_changed), (texts, y_changed)) if changed]


def load_pair(images: Path, texts: Path, rows: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor, list[str]]:
    """As :func:`load_sides`, for files whose rows belong together.

    Raises:
        DataError: also different lengths.
    """
    x, y, changed = load_sides(images, texts, rows, seed)
    if len(x) != len(y):
        raise DataError(f"{images} is {tuple(x.shape)} and {texts} is {tuple(y.shape)}: row i of both must be one pair")
    return x, y, changed


def load_labels(path: Path, queries: int, candidates: int) -> Tensor:
    """int64 (queries,): which candidate is right for each query.

    Raises:
        DataError: no integers, another number of them, or one that is no row of the candidates.
    """
    array = _read(path, "labels")
    if getattr(array, "shape", None) != (queries,) or array.dtype.kind not in "iu":
        raise DataError(f"{path} must be {queries} integers, one for each query")
    labels = torch.from_numpy(np.array(array, dtype=np.int64))
    wrong = ((labels < 0) | (labels >= candidates)).nonzero().flatten()
    if len(wrong):
        raise DataError(
            f"{path}: label {int(labels[wrong[0]])} of row {int(wrong[0])} is none of {candidates} candidates"
        )
    return labels


def kept_embeddings(source: Path) -> Path:
    """The file that holds both sides: the source itself, or the last one that a run kept.

    Raises:
        DataError: a folder that kept none.
    """
    if not source.is_dir():
        return source
    found = sorted((source / "embeddings").glob("epoch_*.safetensors"))
    if not found:
        raise DataError(f"{source} kept no embeddings (eval.keep_embeddings); give files as --images and --texts")
    return found[-1]
