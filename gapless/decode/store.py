"""Embeddings on disk: a folder of files, each with one modality of one split.

FOLDER/MODALITY_SPLIT_00000.safetensors   tensor embedding (n, D), unit-norm or not; metadata format, modality, split,
                                          ids (JSON list of n names) and, where there are any, captions (JSON list);
                                          model (a hash of its weights), part (a hash of all of this split's files)
FOLDER/MODALITY_SPLIT.npz                 the same as arrays embedding, id and captions (strings, no objects)
FOLDER/means.safetensors                  for each modality the mean of its unit-norm training embeddings, (D,);
                                          metadata: the model of each modality

A folder holds the embeddings of one model; files that name another are refused. Files without a name are taken as they
are: those of version 0.1, and your own.

A modality is any word: image, text, audio, video. A text's id is that of the thing it describes; several rows may share
it. Axis letters: N rows, D dimensions.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gapless.errors import ConfigError, DataError
from gapless.geometry.arrays import find_arrays
from gapless.run_folder import MEANS_FILE, write_whole

FORMAT = "gapless features 1"
ROWS_PER_FILE = 50_000
NAME = re.compile(r"([a-z]+)_(train|val|test)(?:_\d+)?\.(safetensors|npz)")


@dataclass(frozen=True)
class Features:
    """Embeddings of one modality and split, in the order of the files."""

    modality: str
    keys: list[str]
    """Name of each row."""
    embedding: Tensor
    """unit-norm (N, D) float32."""
    captions: list[str]
    """Caption of each row; empty strings where there is none."""

    def __len__(self) -> int:
        return len(self.keys)


def save_features(
    folder: Path,
    modality: str,
    split: str,
    keys: Sequence[str],
    embedding: Tensor,
    captions: Sequence[str] | None = None,
    model: str = "",
) -> None:
    """Write one modality of one split, in files of at most 50,000 rows; replaces what was there.

    Args:
        folder: made if missing.
        modality: a word in small letters.
        split: train, val or test.
        keys: N names.
        embedding: (N, D).
        captions: N texts, or None.
        model: a hash of what embedded them; empty if it is not known.

    Raises:
        ConfigError: a modality or split of another form.
        DataError: a file cannot be written.
    """
    if not NAME.fullmatch(f"{modality}_{split}.npz"):
        raise ConfigError(f"{modality}_{split}: a modality is a word of small letters, a split train, val or test")
    rows = embedding.detach().cpu().contiguous()
    part = hashlib.blake2b(json.dumps(list(keys)).encode(), digest_size=8)
    part.update(rows.view(torch.uint8).numpy().tobytes() if rows.numel() else b"")
    names = set()
    for number, start in enumerate(range(0, len(keys), ROWS_PER_FILE)):
        chosen = slice(start, start + ROWS_PER_FILE)
        metadata = {"format": FORMAT, "modality": modality, "split": split, "ids": json.dumps(list(keys[chosen]))}
        metadata |= {"part": part.hexdigest(), "model": model}
        if captions is not None:
            metadata["captions"] = json.dumps(list(captions[chosen]))
        names.add(f"{modality}_{split}_{number:05d}.safetensors")
        with write_whole(folder / f"{modality}_{split}_{number:05d}.safetensors") as temporary:
            save_file({"embedding": rows[chosen].contiguous()}, temporary, metadata)
    for old in folder.glob(f"{modality}_{split}_*.safetensors"):
        if old.name not in names:
            old.unlink()


def save_means(folder: Path, means: Mapping[str, Tensor], model: str = "") -> None:
    """Write means of modalities and the hash of their model, beside those that are there.

    Raises:
        DataError: the file cannot be written.
    """
    path = folder / MEANS_FILE
    known, models = _read_means(path) if path.is_file() else ({}, {})
    models |= dict.fromkeys(means, model)
    with write_whole(path) as temporary:
        save_file(known | {name: mean.contiguous() for name, mean in means.items()}, temporary, models)


class FeatureStore:
    """A folder of embeddings. A file is opened only when its modality and split are asked for.

    Args:
        folder: where they lie.

    Raises:
        DataError: no folder, or no file of the format in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = ""
        """Hash of the model whose embeddings these are, as far as files that were opened name it."""
        self.named_by = ""
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
        paths = self._paths(modality, split)
        self._check_whole(paths)
        parts = [_read(path, modality) for path in paths]
        widths = {part.embedding.shape[1] for part in parts}
        if len(widths) > 1:
            raise DataError(f"{self.folder}: files of {modality}_{split} have {sorted(widths)} dimensions")
        return Features(
            modality,
            [key for part in parts for key in part.keys],
            torch.cat([part.embedding for part in parts]),
            [caption for part in parts for caption in part.captions],
        )

    def captions(self, split: str, modality: str = "text") -> dict[str, list[str]]:
        """The captions of each id, from the rows of a modality (texts)."""
        captions: dict[str, list[str]] = {}
        paths = self._paths(modality, split)
        self._check_whole(paths)
        for path in paths:
            for name, caption in zip(*_describe(path)[:2], strict=True):
                if caption.strip():
                    captions.setdefault(name, []).append(caption)
        return captions

    def means(self) -> dict[str, Tensor]:
        """The means that were stored, (D,) by modality; no embedding is read."""
        path = self.folder / MEANS_FILE
        if not path.is_file():
            return {}
        means, models = _read_means(path)
        for model in models.values():
            self._check_model(path, model)
        return means

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
                f"{self.folder} has no mean of modality {modality}: "
                f"neither {MEANS_FILE} nor {modality}_train files give one"
            )
        return self.load(modality, "train").embedding.mean(dim=0)

    def check_space(self, space: str) -> None:
        """Raise DataError if what was opened is of another model than a decoder learned from; hashes may be empty."""
        if space and self.model and space != self.model:
            raise DataError(f"{self.folder} holds embeddings of another model than the captioner learned from")

    def _check_whole(self, paths: Sequence[Path]) -> None:
        """Refuse files of another model, and files of one split that were not written together."""
        parts = set()
        for path in paths:
            metadata = _describe(path)[2]
            self._check_model(path, metadata.get("model", ""))
            parts.add(metadata.get("part", ""))
        if len(parts) > 1:
            raise DataError(f"{', '.join(map(str, paths))} were not written together; embed again, or keep one of them")

    def _check_model(self, path: Path, model: str) -> None:
        if model and self.model and model != self.model:
            raise DataError(
                f"{path} is of another model than {self.named_by}: embeddings of two models are no space; embed again"
            )
        if model and not self.model:
            self.model, self.named_by = model, path.name

    def _paths(self, modality: str, split: str) -> list[Path]:
        paths = self.files.get((modality, split))
        if paths is None:
            known = ", ".join(sorted(f"{m}_{s}" for m, s in self.files))
            raise DataError(f"{self.folder} has no {modality}_{split} (it has {known})")
        return paths


def _describe(path: Path) -> tuple[list[str], list[str], dict[str, str]]:
    """Ids, captions, and what else a file says of itself, without its embeddings."""
    try:
        if path.suffix == ".npz":
            arrays = find_arrays(path)
            keys = [str(key) for key in arrays["id"].read()]
            captions = [str(text) for text in arrays["captions"].read()] if "captions" in arrays else []
            metadata = {"modality": str(arrays["modality"].read())} if "modality" in arrays else {}
        else:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
            keys, captions = json.loads(metadata["ids"]), json.loads(metadata.get("captions", "[]"))
    except DataError:
        raise
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DataError(f"{path} is not in the format of embeddings ({error})") from None
    if metadata.get("format", FORMAT) != FORMAT:
        raise DataError(f"{path} is of format {metadata['format']!r}, this gapless reads {FORMAT!r}: update gapless")
    return keys, captions or [""] * len(keys), metadata


def _read_means(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Means, and the models that they are of."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read ({error}); embed again") from None


def _read(path: Path, modality: str) -> Features:
    keys, captions, metadata = _describe(path)
    try:
        embedding = torch.from_numpy(find_arrays(path)["embedding"].read()).float()
    except DataError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not in the format of embeddings ({error})") from None
    named = metadata.get("modality", modality)
    if named != modality:
        raise DataError(f"{path} says that it holds {named}, its name says {modality}")
    if embedding.ndim != 2 or not len(embedding) == len(keys) == len(captions):
        shape = tuple(embedding.shape)
        raise DataError(f"{path}: {shape} embeddings, {len(keys)} ids and {len(captions)} captions do not go together")
    norms = embedding.norm(dim=1)
    wrong = (~norms.isfinite() | (norms == 0)).nonzero().flatten().tolist()
    if wrong:
        raise DataError(f"{path}: the embedding of {keys[wrong[0]]} is not finite or zero ({len(wrong)} are)")
    return Features(modality, keys, F.normalize(embedding, dim=1), captions)


def chosen_rows(features: Features, keys: Collection[str]) -> list[int]:
    """The first row of each id.

    Raises:
        DataError: an id that is not among them.
    """
    row: dict[str, int] = {}
    for k, name in enumerate(features.keys):
        row.setdefault(name, k)
    unknown = [name for name in keys if name not in row]
    if unknown:
        raise DataError(f"{features.modality}: id {unknown[0]!r} has no embedding ({len(unknown)} have none)")
    return [row[name] for name in keys]
