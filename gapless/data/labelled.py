"""Images with classes: clip_benchmark's data sets by name, its webdataset layout, image folders, and the emoji.

Everything is read from disk as it lies there; nothing is downloaded unless asked for.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, get_args

from torch import Tensor

from gapless.data.benchmark import place_of, read_benchmark, shard_paths, shards_prompts
from gapless.data.emoji import Split, all_emoji, emoji_classes, emoji_families
from gapless.data.folders import look_through, tell_left_out
from gapless.data.images import IMAGE_EXTENSIONS, BadSampleError, decode_image, printable, read_picture
from gapless.data.pairs import stamp_of_files
from gapless.data.prompts import DEFAULT_TEMPLATES, fill_templates
from gapless.data.shards import ShardSource
from gapless.errors import ConfigError, DataError

MAX_PIXELS = 178_956_970
"""Pillow's own limit."""
SPLITS = frozenset(("train", "training", "val", "valid", "validation", "dev", "test", "testing"))
"""Names of folders that hold a split and are no class."""
PAPER_SETS = ("cifar10", "cifar100", "imagenet1k", "dtd", "caltech101")
"""The contrastive-gap paper's five."""


class LabelledImages(Protocol):
    """Images and their classes, by position."""

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """Name of an image."""

    def load(self, index: int) -> tuple[Tensor, int]:
        """uint8 (3, H, W) and the class; raises BadSampleError."""

    def stamp(self) -> str:
        """What changes when the data do."""


@dataclass(frozen=True)
class LabelledSet:
    """A classification data set."""

    name: str
    images: LabelledImages
    class_names: Sequence[str]
    prompts: Sequence[Sequence[str]] = field(repr=False)
    """The prompts of each class."""
    groups: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Groups of images that are no independent samples, by the images' keys."""


def build_labelled(
    name: str, root: str | None = None, split: str = "test", download: bool = False, prompts: str = "own"
) -> LabelledSet:
    """A classification data set by name.

    Args:
        name: ``emoji_group``, ``emoji_gender``, ``emoji_skin_tone``, ``imagefolder``, ``wds/...`` or a name of
            clip_benchmark.
        root: where it lies; ``{dataset}`` or ``{dataset_cleaned}`` in it becomes the name with ``/`` as ``-``.
        split: train or test.
        download: let torchvision fetch what is missing.
        prompts: own, or fahim2024 for class names as the contrastive-gap paper's code wrote them.

    Raises:
        ConfigError: an unknown name, or no root where one is needed.
        DataError: files that are missing or malformed.
    """
    if name.startswith("emoji_") and name in emoji_classes():
        return _emoji_set(name, split)
    if root is None:
        raise ConfigError(f"root: {name} needs the folder where it lies, for example root=/data/{{dataset}}")
    folder = place_of(root, name)
    if name == "imagefolder":
        return _image_folder(folder, split)
    if name.startswith("wds/"):
        return _webdataset(name, folder, split)
    return LabelledSet(name, *read_benchmark(name, folder, split, download, prompts))


@dataclass(frozen=True)
class ImageFiles:
    """Image files and their classes."""

    paths: Sequence[Path]
    labels: Sequence[int]

    def __len__(self) -> int:
        return len(self.paths)

    def key(self, index: int) -> str:
        return printable(self.paths[index].stem)

    def load(self, index: int) -> tuple[Tensor, int]:
        return decode_image(read_picture(self.paths[index]), MAX_PIXELS)[0], self.labels[index]

    def stamp(self) -> str:
        return stamp_of_files(self.paths)


def _emoji_set(name: str, split: str) -> LabelledSet:
    if split not in get_args(Split):
        raise DataError(f"split: {name} has the splits {', '.join(get_args(Split))}, not {split!r}")
    task = emoji_classes()[name]
    chosen = [e.path for e in all_emoji() if e.split == split and e.path.stem in task.labels]
    labels = [task.labels[path.stem] for path in chosen]
    return LabelledSet(
        name, ImageFiles(chosen, labels), list(task.prompts), list(task.prompts.values()), emoji_families()
    )


def _image_folder(folder: Path, split: str) -> LabelledSet:
    root = folder / split if (folder / split).is_dir() else folder
    names = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name[0] != ".") if root.is_dir() else []
    if root == folder and (
        ("train" in names and len(SPLITS.intersection(names)) > 1) or SPLITS.issuperset(names or ["none"])
    ):
        raise DataError(f"split: {printable(folder)} has the splits {', '.join(names)}, not {split!r}")
    if not names:
        raise DataError(f"root: looked for a folder for each class in {printable(root)}, there is none")
    folders = [look_through(root / name) for name in names]
    tell_left_out(root, sum((files.left_out + Counter(".txt" for _ in files.texts) for files in folders), Counter()))
    paths = [path for files in folders for path in files.images]
    if not paths:
        raise DataError(f"root: no images ({', '.join(IMAGE_EXTENSIONS)}) below {printable(root)}")
    labels = [label for label, files in enumerate(folders) for _ in files.images]
    spoken = [printable(name).replace("_", " ") for name in names]
    return LabelledSet("imagefolder", ImageFiles(paths, labels), spoken, fill_templates(spoken, DEFAULT_TEMPLATES))


@dataclass(frozen=True)
class _Shards:
    source: ShardSource

    def __len__(self) -> int:
        return len(self.source)

    def key(self, index: int) -> str:
        return self.source.key(index)

    def load(self, index: int) -> tuple[Tensor, int]:
        pair = self.source.load(index)
        if self.source.label(index) < 0:
            raise BadSampleError("no_caption", f"{pair.key} has no class (.cls)")
        return decode_image(pair.image, MAX_PIXELS)[0], self.source.label(index)

    def stamp(self) -> str:
        return self.source.stamp()


def _webdataset(name: str, folder: Path, split: str) -> LabelledSet:
    source = ShardSource(shard_paths(folder, split))
    names, prompts = shards_prompts(folder)
    largest = max((source.label(i) for i in range(len(source))), default=-1)
    if largest >= len(names):
        raise DataError(f"{folder}/classnames.txt has {len(names)} classes, but a sample has class {largest}")
    return LabelledSet(name, _Shards(source), names, prompts)
