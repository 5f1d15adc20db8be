"""Images with classes: clip_benchmark's data sets by name, its webdataset layout, image folders, and the emoji.

Everything is read from disk as it lies there; nothing is downloaded unless asked for.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from torchvision.datasets.imagenet import load_meta_file
from torchvision.transforms.v2.functional import pil_to_tensor

from gapless.data.emoji import all_emoji, emoji_classes
from gapless.data.files import IMAGE_EXTENSIONS
from gapless.data.images import BadSampleError, decode_image
from gapless.data.pairs import stamp_of_files
from gapless.data.shards import ShardSource
from gapless.errors import ConfigError, DataError

MAX_PIXELS = 178_956_970
"""Pillow's own limit."""
DEFAULT_TEMPLATES = ("a photo of a {c}.",)
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


def build_labelled(
    name: str, root: str | None = None, split: str = "test", download: bool = False, prompts: str = "own"
) -> LabelledSet:
    """A classification data set by name.

    Args:
        name: ``emoji_group``, ``emoji_skin_tone``, ``imagefolder``, ``wds/...`` or a name of clip_benchmark.
        root: where it lies; ``{dataset}`` in it becomes the name with ``/`` as ``-``.
        split: train or test.
        download: let torchvision fetch what is missing.
        prompts: own, or fahim2024 for class names as the contrastive-gap paper's code wrote them.

    Raises:
        ConfigError: an unknown name, or no root where one is needed.
        DataError: files that are missing or malformed.
    """
    if name in emoji_classes():
        return _emoji_set(name, split)
    if root is None:
        raise ConfigError(f"--root: {name} needs the folder where it lies, for example --root=/data/{{dataset}}")
    folder = Path(root.replace("{dataset}", name.replace("/", "-")))
    if name == "imagefolder":
        return _image_folder(folder, split)
    if name.startswith("wds/"):
        return _webdataset(name, folder, split)
    return _clip_benchmark(name, folder, split, download, prompts)


@dataclass(frozen=True)
class ImageFiles:
    """Image files and their classes."""

    paths: Sequence[Path]
    labels: Sequence[int]

    def __len__(self) -> int:
        return len(self.paths)

    def key(self, index: int) -> str:
        return self.paths[index].stem

    def load(self, index: int) -> tuple[Tensor, int]:
        try:
            data = self.paths[index].read_bytes()
        except OSError as error:
            raise BadSampleError("missing_file", f"{self.paths[index]}: {error.strerror}") from None
        return decode_image(data, MAX_PIXELS)[0], self.labels[index]

    def stamp(self) -> str:
        return stamp_of_files(self.paths)


def _emoji_set(name: str, split: str) -> LabelledSet:
    task = emoji_classes()[name]
    chosen = [e.path for e in all_emoji() if e.split == split and e.path.stem in task.labels]
    labels = [task.labels[path.stem] for path in chosen]
    return LabelledSet(name, ImageFiles(chosen, labels), list(task.prompts), list(task.prompts.values()))


def _image_folder(folder: Path, split: str) -> LabelledSet:
    root = folder / split if (folder / split).is_dir() else folder
    names = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    if not names:
        raise DataError(f"--root: looked for a folder for each class in {root}, there is none")
    found = [
        (p, k)
        for k, n in enumerate(names)
        for p in sorted((root / n).rglob("*"))
        if p.suffix[1:].lower() in IMAGE_EXTENSIONS
    ]
    if not found:
        raise DataError(f"--root: no images ({', '.join(IMAGE_EXTENSIONS)}) below {root}")
    paths, labels = zip(*found, strict=True)
    spoken = [name.replace("_", " ") for name in names]
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


def shard_paths(folder: Path, split: str) -> list[str]:
    """The shards of a split in clip_benchmark's layout: SPLIT/nshards.txt, SPLIT/0.tar, SPLIT/1.tar ...

    Raises:
        DataError: nshards.txt is missing or no number.
    """
    count = folder / split / "nshards.txt"
    try:
        return [str(folder / split / f"{k}.tar") for k in range(int(count.read_text()))]
    except (OSError, ValueError):
        raise DataError(f"--root: looked for {count} with the number of shards, it is not there") from None


def _webdataset(name: str, folder: Path, split: str) -> LabelledSet:
    source = ShardSource(shard_paths(folder, split))
    names = _lines(folder / "classnames.txt")
    templates = _lines(folder / "zeroshot_classification_templates.txt")
    largest = max(source.label(i) for i in range(len(source)))
    if largest >= len(names):
        raise DataError(f"{folder}/classnames.txt has {len(names)} classes, but a sample has class {largest}")
    return LabelledSet(name, _Shards(source), names, fill_templates(names, templates))


def _lines(path: Path) -> list[str]:
    try:
        found = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"--root: {path} cannot be read ({error.strerror})") from None
    if not found:
        raise DataError(f"--root: {path} is empty")
    return found


@dataclass(frozen=True)
class _Torchvision:
    """A data set of clip_benchmark's builder, which gives what its transform gives and a class."""

    dataset: Any
    root: str

    def __len__(self) -> int:
        return len(self.dataset)

    def key(self, index: int) -> str:
        return str(index)

    def load(self, index: int) -> tuple[Tensor, int]:
        try:
            image, label = self.dataset[index]
        except (OSError, SyntaxError, ValueError) as error:
            raise BadSampleError("not_an_image", str(error)) from None
        return image, int(label)

    def stamp(self) -> str:
        return f"{self.root} {len(self)}"


def _to_tensor(image: Any) -> Tensor:
    return pil_to_tensor(image.convert("RGB"))


def _clip_benchmark(name: str, folder: Path, split: str, download: bool, prompts: str) -> LabelledSet:
    from clip_benchmark.datasets.builder import build_dataset  # heavy, and most runs do not need it

    known = inspect.getsource(build_dataset)
    if f'"{name}"' not in known and not name.startswith(("vtab/", "tfds/")):
        raise ConfigError(f"--datasets: clip_benchmark has no data set {name!r}")
    said = "there is no such folder"
    try:
        if not folder.is_dir() and not download:  # some of its builders would fetch it unasked
            raise FileNotFoundError(said)
        dataset = build_dataset(name, root=str(folder), transform=_to_tensor, split=split, download=download)
    except (RuntimeError, OSError, ValueError, AssertionError, ImportError) as error:
        said = " ".join(str(error).split())[:160]
        raise DataError(
            f"{name} was looked for in {folder} ({said}); --download fetches what torchvision can, and "
            f"clip_benchmark eval --dataset={name} --dataset_root={folder} what it can"
        ) from None
    names, templates = list(dataset.classes), dataset.templates
    if not templates:
        templates = list(DEFAULT_TEMPLATES)
    spoken = _as_paper_wrote(name, names, folder) if prompts == "fahim2024" else names
    return LabelledSet(name, _Torchvision(dataset, str(folder)), names, fill_templates(spoken, templates))


def _as_paper_wrote(name: str, class_names: Sequence[str], folder: Path) -> list[str]:
    """The contrastive-gap paper's slips: all synonyms of a class as a Python tuple, or 'photo of' twice."""
    if name == "imagenet1k":
        synonyms, _ = load_meta_file(str(folder))  # torchvision orders classes by their WordNet number
        return [str(synonyms[number]) for number in sorted(synonyms)]
    return [f"photo of {each}" for each in class_names] if name in ("dtd", "caltech101") else list(class_names)


def fill_templates(
    class_names: Sequence[str], templates: Sequence[str] | Mapping[str, Sequence[str]]
) -> list[tuple[str, ...]]:
    """The prompts of each class: ``{c}`` filled into every template, or the class's own prompts.

    A list and not a mapping by name: ImageNet has names that occur twice.
    """
    if isinstance(templates, Mapping):
        return [tuple(templates[name]) for name in class_names]
    return [tuple(template.replace("{c}", name) for template in templates) for name in class_names]
