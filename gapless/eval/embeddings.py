"""Rows of a data set as a model embeds them, in memory and on disk."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gapless.data.samples import BadSample
from gapless.errors import DataError
from gapless.run_folder import write_whole


def _no_rows() -> Tensor:
    return torch.empty(0, dtype=torch.long)


@dataclass
class Embeddings:
    """Features of images, and of their texts where they have any: unit-norm float32 on the CPU.

    Axis letters: N images, T texts, D dimensions.
    """

    image: Tensor
    """(N, D)."""
    text: Tensor
    """(T, D): the captions of the first image, then those of the second ...; (0, D) of images alone."""
    indices: Tensor
    """int64 (N,): positions of the images in the data set; -1 for streams."""
    bad: list[BadSample] = field(default_factory=list)
    """Samples that could not be embedded."""
    keys: list[str] = field(default_factory=list)
    """Names of the images; none for streams."""
    labels: Tensor = field(default_factory=_no_rows)
    """int64 (N,): classes of the images, or -1; none of pairs."""
    captions: list[str] = field(default_factory=list)
    """The T texts, where images have several."""
    image_of_text: Tensor = field(default_factory=_no_rows)
    """int64 (T,): row of the image of each text, where images have several; else text i is that of image i."""
    without_caption: int = 0
    """Images that were left out because they have no caption."""
    sample_set: str = ""
    """Hash of the keys and labels of the images, and of their captions."""

    @property
    def first_text(self) -> Tensor:
        """The first caption of each image, (N, D)."""
        counts = torch.bincount(self.image_of_text)
        return self.text[counts.cumsum(0) - counts]


def rows_of_groups(keys: Sequence[str], groups: Mapping[str, str]) -> Tensor:
    """A number for each row, the same for rows of one group, int64 (N,); a key without a group is one of its own."""
    numbers: dict[tuple[str, bool], int] = {}
    named = ((groups.get(key, key), key in groups) for key in keys)
    return torch.tensor([numbers.setdefault(name, len(numbers)) for name in named], dtype=torch.long)


def save_pairs(pairs: Embeddings, path: Path) -> None:
    """Write features of pairs whole: tensors image, text and indices, and the keys."""
    tensors = {"image": pairs.image, "text": pairs.text, "indices": pairs.indices}
    with write_whole(path) as temporary:
        save_file({n: t.contiguous() for n, t in tensors.items()}, temporary, {"keys": json.dumps(pairs.keys)})


def load_pairs(path: Path) -> Embeddings:
    """What :func:`save_pairs` wrote.

    Raises:
        DataError: the file is missing or broken.
    """
    try:
        with safe_open(path, "pt") as file:
            image, text, indices = (file.get_tensor(name) for name in ("image", "text", "indices"))
            return Embeddings(image, text, indices, keys=json.loads(file.metadata()["keys"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} holds no embeddings that can be read ({error}); evaluate the run again") from None
