"""Embeddings on disk: a folder of files, each with one modality of one split.

FOLDER/MODALITY_SPLIT_00000.safetensors   tensor embedding (n, D), unit-norm or not; metadata format, modality, split,
                                          ids (JSON list of n names) and, for what is to be said, captions (JSON list)
FOLDER/MODALITY_SPLIT.npz                 the same as arrays embedding, id and captions (strings, no objects)
FOLDER/means.safetensors                  for each modality the mean of its unit-norm training embeddings, (D,)

A modality is any word: image, text, audio, video. A text's id is that of the thing it describes; several rows may share
it. Axis letters: N rows, D dimensions.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from gapless.errors import ConfigError, DataError

FORMAT = "gapless features 1"
MEANS = "means.safetensors"
ROWS_PER_FILE = 50_000
NAME = re.compile(r"([a-z]+)_(train|val|test)(?:_\d+)?\.(safetensors|npz)")


@dataclass(frozen=True)
class Features:
    """Embeddings of one modality and split, in the order of the files."""

    modality: str
    ids: list[str]
    embedding: Tensor
    """unit-norm (N, D) float32."""
    captions: list[str]
    """What is to be said of each row; empty strings where nothing is known."""

    def __len__(self) -> int:
        return len(self.ids)


def save_features(
    folder: Path,
    modality: str,
    split: str,
    ids: Sequence[str],
    embedding: Tensor,
    captions: Sequence[str] | None = None,
) -> None:
    """Write one modality of one split, in files of at most 50,000 rows; replaces what was there.

    Args:
        folder: made if missing.
        modality: a word in small letters.
        split: train, val or test.
        ids: N names.
        embedding: (N, D).
        captions: N texts, or None.

    Raises:
        ConfigError: a modality or split of another form.
    """
    if not NAME.fullmatch(f"{modality}_{split}.npz"):
        raise ConfigError(f"{modality}_{split}: a modality is a word of small letters, a split train, val or test")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{modality}_{split}_*.safetensors"):
        old.unlink()
    for number, start in enumerate(range(0, len(ids), ROWS_PER_FILE)):
        rows = slice(start, start + ROWS_PER_FILE)
        told = {"format": FORMAT, "modality": modality, "split": split, "ids": json.dumps(list(ids[rows]))}
        if captions is not None:
            told["captions"] = json.dumps(list(captions[rows]))
        path = folder / f"{modality}_{split}_{number:05d}.safetensors"
        save_file({"embedding": embedding[rows].contiguous()}, path, told)


def save_means(folder: Path, means: Mapping[str, Tensor]) -> None:
    """Write means of modalities, beside those that are there."""
    path = folder / MEANS
    save_file((load_file(path) if path.is_file() else {}) | {n: m.contiguous() for n, m in means.items()}, path)


class FeatureStore:
    """A folder of embeddings. A file is opened only when its modality and split are asked for.

    Args:
        folder: where they lie.

    Raises:
        DataError: no folder, or no file of the format in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[tuple[str, str], list[Path]] = {}
        for path in sorted(folder.glob("*")) if folder.is_dir() else ():
            if match := NAME.fullmatch(path.name):
                self.files.setdefault((match[1], match[2]), []).append(path)
        if not self.files:
            raise DataError(f"{folder} holds no embeddings named MODALITY_SPLIT, such as text_train_00000.safetensors")

    def load(self, modality: str, split: str) -> Features:
        """All rows of a modality and split, unit-norm.

        Raises:
            DataError: none there, or files that cannot be used.
        """
        found = [_read(path, modality) for path in self._paths(modality, split)]
        widths = {part.embedding.shape[1] for part in found}
        if len(widths) > 1:
            raise DataError(f"{self.folder}: files of {modality}_{split} have {sorted(widths)} dimensions")
        return Features(
            modality,
            [each for part in found for each in part.ids],
            torch.cat([part.embedding for part in found]),
            [each for part in found for each in part.captions],
        )

    def captions(self, split: str, modality: str = "text") -> dict[str, list[str]]:
        """The captions of each id, from the rows of a modality (texts)."""
        found: dict[str, list[str]] = {}
        for path in self._paths(modality, split):
            for name, caption in zip(*_labels(path), strict=True):
                if caption.strip():
                    found.setdefault(name, []).append(caption)
        return found

    def means(self) -> dict[str, Tensor]:
        """The means that were stored, (D,) by modality; no embedding is read."""
        path = self.folder / MEANS
        return load_file(path) if path.is_file() else {}

    def mean(self, modality: str) -> Tensor:
        """The stored mean of a modality, or that of its training rows.

        Raises:
            DataError: neither is there.
        """
        stored = self.means()
        if modality in stored:
            return stored[modality]
        if (modality, "train") not in self.files:
            raise DataError(
                f"{self.folder} has no mean of modality {modality}: neither {MEANS} nor {modality}_train files give one"
            )
        return self.load(modality, "train").embedding.mean(dim=0)

    def _paths(self, modality: str, split: str) -> list[Path]:
        paths = self.files.get((modality, split))
        if paths is None:
            known = ", ".join(sorted(f"{m}_{s}" for m, s in self.files))
            raise DataError(f"{self.folder} has no {modality}_{split} (it has {known})")
        return paths


def _labels(path: Path) -> tuple[list[str], list[str]]:
    """Ids and captions of a file, without its embeddings."""
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                ids = [str(each) for each in arrays["id"]]
                captions = [str(each) for each in arrays["captions"]] if "captions" in arrays else []
        else:
            with safe_open(path, "pt") as file:
                told = file.metadata() or {}
            ids, captions = json.loads(told["ids"]), json.loads(told.get("captions", "[]"))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise DataError(f"{path} is not in the format of embeddings ({error})") from None
    return ids, captions or [""] * len(ids)


def _read(path: Path, modality: str) -> Features:
    ids, captions = _labels(path)
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                embedding = torch.from_numpy(arrays["embedding"]).float()
                named = str(arrays["modality"]) if "modality" in arrays else modality
        else:
            with safe_open(path, "pt") as file:
                embedding, named = file.get_tensor("embedding").float(), file.metadata().get("modality", modality)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DataError(f"{path} is not in the format of embeddings ({error})") from None
    if named != modality:
        raise DataError(f"{path} says that it holds {named}, its name says {modality}")
    if embedding.ndim != 2 or not len(embedding) == len(ids) == len(captions):
        shape = tuple(embedding.shape)
        raise DataError(f"{path}: {shape} embeddings, {len(ids)} ids and {len(captions)} captions do not go together")
    norms = embedding.norm(dim=1)
    wrong = (~norms.isfinite() | (norms == 0)).nonzero().flatten().tolist()
    if wrong:
        raise DataError(f"{path}: the embedding of {ids[wrong[0]]} is not finite or zero ({len(wrong)} are)")
    return Features(modality, ids, F.normalize(embedding, dim=1), captions)


def chosen_rows(features: Features, wanted: Collection[str]) -> list[int]:
    """The first row of each id.

    Raises:
        DataError: an id that is not among them.
    """
    row: dict[str, int] = {}
    for k, name in enumerate(features.ids):
        row.setdefault(name, k)
    unknown = [name for name in wanted if name not in row]
    if unknown:
        raise DataError(f"{features.modality}: id {unknown[0]!r} has no embedding ({len(unknown)} have none)")
    return [row[name] for name in wanted]
