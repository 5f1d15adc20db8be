"""A model of two tables, so that a test chooses the feature of every picture and of every text.

A picture is of one colour, which is its row in the one table; the only token of a text is its row in the other. What a
wrong step between the rooms of an evaluation changes is then a number that can be worked out by hand.
"""

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from gapless.models import ClipModel, LoadedModel

PREPROCESS = {"size": 8, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "interpolation": "bicubic"}
CONTEXT = 2


class TowerTables(nn.Module):
    """What ClipModel takes for towers."""

    logit_bias = None

    def __init__(self, images: Tensor, texts: Tensor) -> None:
        super().__init__()
        self.images, self.texts = nn.Parameter(images), nn.Parameter(texts)
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.rows: list[int] = []
        """Sizes of the batches that were embedded."""

    def visual(self, pixels: Tensor) -> Tensor:
        self.rows.append(len(pixels))
        return self.images[(pixels[:, 0, 0, 0] * 255).round().long()]

    def encode_text(self, tokens: Tensor) -> Tensor:
        self.rows.append(len(tokens))
        return self.texts[tokens[:, 0]]


class Tables:
    """Pictures and texts with the features that they get here; a feature may be of any length but 0."""

    def __init__(self, dimension: int = 4) -> None:
        self.images = [torch.zeros(dimension)]
        self.texts: dict[str, Tensor] = {"": torch.zeros(dimension)}

    def picture(self, path: Path, feature: Sequence[float]) -> Path:
        """Write a picture."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.png(feature))
        return path

    def png(self, feature: Sequence[float]) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (len(self.images), 0, 0)).save(buffer, "PNG")
        self.images.append(torch.tensor(feature, dtype=torch.float32))
        return buffer.getvalue()

    def write(self, texts: Mapping[str, Sequence[float]]) -> None:
        """Give texts their features."""
        self.texts |= {text: torch.tensor(feature, dtype=torch.float32) for text, feature in texts.items()}

    def tokenize(self, texts: list[str], context_length: int = CONTEXT) -> Tensor:
        tokens = torch.zeros(len(texts), context_length, dtype=torch.long)
        tokens[:, 0] = torch.tensor([list(self.texts).index(text) for text in texts])
        return tokens

    def loaded(self, name: str = "table", pretrained: str = "by hand") -> LoadedModel:
        towers = TowerTables(torch.stack(self.images), torch.stack(list(self.texts.values())))
        model = ClipModel(towers, {"text_cfg": {"context_length": CONTEXT}}, PREPROCESS)
        return LoadedModel(model, self.tokenize, name, pretrained)

    def row(self, number: int) -> Tensor:
        """Unit-norm feature of a picture, counted from 0 in the order in which they were made."""
        return F.normalize(self.images[number + 1], dim=0)

    def rows(self, *numbers: int) -> Tensor:
        return torch.stack([self.row(number) for number in numbers])

    def text(self, *texts: str) -> Tensor:
        """Unit-norm features of texts, (T, D)."""
        return F.normalize(torch.stack([self.texts[text] for text in texts]), dim=1)


def shard(path: Path, members: Mapping[str, bytes]) -> None:
    """One tar of webdataset, and the file with the number of tars."""
    path.mkdir(parents=True)
    (path / "nshards.txt").write_text("1")
    with tarfile.open(path / "0.tar", "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
