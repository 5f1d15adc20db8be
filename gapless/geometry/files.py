"""Embedding files, read and checked: .npy, .npz and .safetensors, and what a run keeps."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gapless.errors import DataError
from gapless.geometry.arrays import StoredArray, check_memory, find_arrays
from gapless.losses.strips import strips
from gapless.run_folder import EMBEDDINGS

SIDES = ("image", "text")


def load_embeddings(path: Path, name: str = "", rows: int | None = None, seed: int = 0) -> tuple[Tensor, bool]:
    """Read an (N, D) matrix.

    Args:
        path: .npy (read where it lies, so that it may be larger than memory), .npz or .safetensors; floats of any
            width and length, or integers of more than 8 bits.
        name: of the array in a file of several, image or text.
        rows: take only so many, a random choice in their order that is the same for files of equal length.
        seed: of the choice.

    Returns:
        unit-norm (N, D) float32, and whether the rows had to be normalised.

    Raises:
        DataError: not a matrix, empty, not finite, with a row of zeros, or in 8 bits that may be
            packed bits or quantised values; the message names the file.
    """
    stored = _chosen(path, find_arrays(path), name)
    if len(stored.shape) != 2 or stored.dtype.kind not in "fiu":
        raise DataError(f"{path} must be one matrix (N, D) of numbers, it is {stored.shape} of {stored.dtype}")
    if 0 in stored.shape:
        raise DataError(f"{path} is empty, its shape is {stored.shape}")
    if stored.dtype.kind in "iu" and stored.dtype.itemsize == 1:
        bits = "x" if stored.dtype.kind == "u" else "(x.astype(int) + 128).astype('uint8')"
        raise DataError(
            f"{path} holds 8-bit integers ({stored.dtype}): packed bits or quantised values are no coordinates. "
            f"Give the embeddings as floats; signs from packed bits are numpy.unpackbits({bits}, axis=1) * 2.0 - 1"
        )
    chosen = None
    if rows is not None and rows < stored.shape[0]:
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(stored.shape[0], generator=generator)[:rows].sort().values.numpy()
    items = (stored.shape[0] if chosen is None else len(chosen)) * stored.shape[1]
    check_memory(path, items, np.dtype(np.float32), "; rows takes a part of it")
    return _unit_rows(path, stored, chosen)


def _unit_rows(path: Path, stored: StoredArray, chosen: Any) -> tuple[Tensor, bool]:
    """The rows at length 1, in float32, and whether any had another length."""
    array = stored.read(chosen)
    features, changed = torch.empty(array.shape), False
    broken: list[int] = []
    zero: list[int] = []
    for strip in strips(len(array), array.shape[1]):
        with np.errstate(all="ignore"):  # a NaN is named below
            part = torch.from_numpy(np.array(array[strip], dtype=np.float64))
        broken += [strip.start + i for i in (~part.isfinite().all(dim=1)).nonzero().flatten().tolist()]
        # By its largest number first: squares of numbers beyond 1e154 or below 1e-162 are infinite or zero.
        largest = part.abs().amax(dim=1, keepdim=True)
        zero += [strip.start + i for i in (largest == 0).flatten().nonzero().flatten().tolist()]
        part /= largest
        norms = part.norm(dim=1, keepdim=True)
        features[strip] = part / norms
        changed |= bool(((norms * largest - 1).abs() > 1e-3).any())
    if broken:
        raise DataError(f"{path} has NaN or infinity in {len(broken)} rows, the first is row {broken[0]}")
    if zero:
        raise DataError(f"{path} has {len(zero)} rows of zeros, the first is row {zero[0]}; they have no direction")
    return features, changed


def _names_of(side: str) -> tuple[str, ...]:
    return side, f"{side}s", f"{side}_features", f"{side}_embeddings"


def _chosen(path: Path, arrays: dict[str, StoredArray], name: str) -> StoredArray:
    """The array meant: that of the name, or the only one unless it is the other side's."""
    for key in _names_of(name):
        if key in arrays:
            return arrays[key]
    others = [key for side in SIDES if name in SIDES and side != name for key in _names_of(side)]
    if len(arrays) == 1 and not set(arrays) & set(others):
        return next(iter(arrays.values()))
    raise DataError(f"{path} has the arrays {', '.join(arrays) or 'of no name'}, and none is called {name}")


def load_sides(images: Path, texts: Path, rows: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor, list[str]]:
    """Read images and texts, paired or not; both paths may be one file of arrays ``image`` and ``text``.

    Returns:
        unit-norm features of both, and the files whose rows had to be normalised.

    Raises:
        DataError: as :func:`load_embeddings`, one matrix for both sides, different dimensions, or fewer than 5 rows.
    """
    if images.resolve() == texts.resolve() and len(find_arrays(images)) == 1:
        raise DataError(
            f"{images} has one matrix, which would be both images and texts; name its arrays image and text"
        )
    (x, x_changed), (y, y_changed) = (
        load_embeddings(path, name, rows, seed) for path, name in zip((images, texts), SIDES, strict=True)
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
    stored = _chosen(path, find_arrays(path), "labels")
    if stored.shape != (queries,) or stored.dtype.kind not in "iu":
        raise DataError(f"{path} must be {queries} integers, one for each query")
    labels = torch.from_numpy(stored.read().astype(np.int64))
    wrong = ((labels < 0) | (labels >= candidates)).nonzero().flatten()
    if len(wrong):
        raise DataError(
            f"{path}: label {int(labels[wrong[0]])} of row {int(wrong[0])} is none of {candidates} candidates"
        )
    return labels


def kept_epochs(run: Path) -> dict[int, Path]:
    """The embeddings that a run kept, by epoch; files of other names beside them are none."""
    epochs = ((path.stem.removeprefix("epoch_"), path) for path in (run / EMBEDDINGS).glob("epoch_*.safetensors"))
    return dict(sorted((int(epoch), path) for epoch, path in epochs if re.fullmatch("[0-9]{1,9}", epoch)))


def kept_embeddings(source: Path) -> Path:
    """The file that holds both sides: the source itself, or the last one that a run kept.

    Raises:
        DataError: a folder that kept none.
    """
    if not source.is_dir():
        return source
    epochs = kept_epochs(source)
    if not epochs:
        raise DataError(f"{source} kept no embeddings (eval.keep_embeddings); give files as images=FILE and texts=FILE")
    return epochs[max(epochs)]
