"""Features from pickles of other projects, read without executing what a pickle may ask for."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gapless.decode.store import NAME, save_features, save_means
from gapless.errors import DataError
from gapless.run_folder import rewritten


def _storage(data: bytes) -> Any:
    """A tensor's memory; torch's own function of this name in pickles would execute code."""
    return torch.load(io.BytesIO(data), "cpu", weights_only=True)


_NUMPY: dict[str, Any] = {
    "ndarray": np.ndarray,
    "dtype": np.dtype,
    # Private functions whose module was renamed, which arrays and scalars name for themselves.
    "_reconstruct": np.array(0).__reduce__()[0],
    "scalar": np.float32(0).__reduce__()[0],
}
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("collections", "OrderedDict"): dict,
    ("_codecs", "encode"): lambda text, coding: str(text).encode(str(coding)),
}


class _Reader(pickle.Unpickler):
    """Knows tensors, arrays and plain containers; anything else is refused before it is called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray") and name in _NUMPY:
            return _NUMPY[name]
        raise pickle.UnpicklingError(f"it wants to call {module}.{name}")


def read_pickle(path: Path) -> Any:
    """The plain data of a pickle.

    Raises:
        DataError: it is missing, broken, or asks for anything but tensors, arrays and containers.
    """
    try:
        with path.open("rb") as file:
            return _Reader(file).load()
    except Exception as error:  # unpickling raises whatever the file leads it to
        raise DataError(
            f"{path} cannot be read as a pickle of tensors ({' '.join(str(error).split())[:160]})"
        ) from None


def convert_pickle(path: Path, split: str, folder: Path, modality: str = "image") -> dict[str, int]:
    """Write the features of connect-collapse-corrupt's pickles as a store.

    Two forms are known: ``{"images": {id: {"embed"}}, "captions": {id: {"caption", "img_id", "embed"}}}`` of one
    split, and a list of ``{"x", "y", "x_embed", "y_embed", "split"}`` of all, where x names a thing and y is its text.

    Args:
        path: of the pickle.
        split: of the first form: train, val or test.
        folder: of the store.
        modality: of what the texts describe.

    Returns:
        Rows written, by ``MODALITY_SPLIT``.

    Raises:
        DataError: another form.
    """
    tree = read_pickle(path)
    try:
        parts = _coco(tree, split, modality) if isinstance(tree, dict) else _paired(tree, modality)
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise DataError(f"{path} is neither of the two known forms ({error!r})") from None
    if not any(keys for keys, _, _ in parts.values()):
        raise DataError(f"{path} holds no embeddings")
    for name, part in parts:
        if not NAME.fullmatch(f"{name}_{part}.npz"):
            raise DataError(
                f"{path}: {name}_{part} cannot be stored, "
                "a modality is a word of small letters, a split train, val or test"
            )
    stacked = {key: _stack(path, key, keys, rows) for key, (keys, rows, _) in parts.items()}

    def is_replaced(old: Path) -> bool:
        match = NAME.fullmatch(old.name)
        return match is not None and (match[1], match[2]) in parts and old.suffix == ".safetensors"

    with rewritten(folder, is_replaced) as place:
        for (name, part), (keys, _, captions) in parts.items():
            save_features(place, name, part, keys, stacked[name, part], captions)
            if part == "train":
                mean = torch.nn.functional.normalize(stacked[name, part], dim=1).mean(dim=0)
                save_means(place, {name: mean})
    return {f"{name}_{part}": len(keys) for (name, part), (keys, _, _) in parts.items()}


Part = tuple[list[str], list[Any], list[str] | None]


def _coco(tree: dict[str, Any], split: str, modality: str) -> dict[tuple[str, str], Part]:
    images, texts = tree["images"], tree["captions"].values()
    return {
        (modality, split): ([str(k) for k in images], [image["embed"] for image in images.values()], None),
        ("text", split): (
            [str(text["img_id"]) for text in texts],
            [text["embed"] for text in texts],
            [str(text["caption"]) for text in texts],
        ),
    }


def _paired(rows: list[dict[str, Any]], modality: str) -> dict[tuple[str, str], Part]:
    parts: dict[tuple[str, str], tuple[list[str], list[Any], list[str]]] = {}
    seen: set[tuple[str, str]] = set()
    for row in rows:
        split, name = str(row["split"]), str(row["x"])
        texts = parts.setdefault(("text", split), ([], [], []))
        for part, value in zip(texts, (name, row["y_embed"], str(row["y"])), strict=True):
            part.append(value)
        if (split, name) not in seen:  # a thing occurs once for each of its texts
            seen.add((split, name))
            things = parts.setdefault((modality, split), ([], [], []))
            things[0].append(name)
            things[1].append(row["x_embed"])
    return {name: (keys, rows, captions or None) for name, (keys, rows, captions) in parts.items()}


def _stack(path: Path, key: tuple[str, str], keys: list[str], rows: list[Any]) -> Tensor:
    """Embeddings as (N, D) float32.

    Raises:
        DataError: one that is none, has another length, or is not finite or zero.
    """
    vectors: list[Tensor] = []
    for name, row in zip(keys, rows, strict=True):
        try:
            numbers = torch.as_tensor(row).float().flatten()
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"{path}: the embedding of {name} in {'_'.join(key)} is no vector ({error})") from None
        if not len(numbers) or (vectors and len(numbers) != len(vectors[0])):
            raise DataError(
                f"{path}: the embedding of {name} in {'_'.join(key)} has {len(numbers)} numbers, the first has "
                f"{len(vectors[0]) if vectors else 0}"
            )
        if not numbers.isfinite().all() or not numbers.any():
            raise DataError(f"{path}: the embedding of {name} in {'_'.join(key)} is not finite or zero")
        vectors.append(numbers)
    return torch.stack(vectors) if vectors else torch.empty(0, 0)
