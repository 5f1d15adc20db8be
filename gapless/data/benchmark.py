"""clip_benchmark's data sets by name, and its layouts on disk.

Many of clip_benchmark's builders fetch what they miss through a shell, which also runs what stands in the name of the
folder. So only builders that start nothing are called, and only where their data lie; the rest is read here or refused.
"""

import difflib
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.datasets.imagenet import load_meta_file

from gapless.data.images import BadSampleError, image_tensor
from gapless.data.pairs import FilePair, stamp_of_files
from gapless.data.prompts import DEFAULT_TEMPLATES, fill_templates
from gapless.errors import ConfigError, DataError

FETCHED = (
    *("caltech101", "cars", "cifar10", "cifar100", "country211", "dtd", "eurosat", "fgvc_aircraft", "flowers"),
    *("food101", "gtsrb", "mnist", "pcam", "pets", "renderedsst2", "stl10", "sun397", "voc2007"),
)
"""Read by torchvision, which can download them."""
LAID_OUT = (
    *("fer2013", "imagenet-a", "imagenet-o", "imagenet-r", "imagenet1k", "imagenet1k-unverified"),
    *("imagenet_sketch", "imagenetv2", "objectnet"),
)
"""Read from folders that the user lays out."""
RETRIEVAL_SETS = ("flickr30k", "flickr8k", "mscoco_captions")
"""Images with several captions."""
_EXPORT = "clip_benchmark_export_wds writes it as shards that are read as wds/NAME"
REFUSED = {
    "tfds/": f"streams through TensorFlow; {_EXPORT}",
    "vtab/": f"streams through TensorFlow; {_EXPORT}",
    "babel_imagenet": "is ImageNet in other languages, and none can be chosen here",
    "imagenet-w": "needs clip_benchmark's own transform",
    "voc2007_multilabel": "has several classes an image, which no task here scores",
    "multilingual_mscoco_captions": f"is fetched while it is read; {_EXPORT}",
    "crossmodal3600": f"is fetched while it is read; {_EXPORT}",
    "xtd": f"is fetched while it is read; {_EXPORT}",
    "flickr30k-200": f"is fetched while it is read; {_EXPORT}",
    "dummy": "has no images",
}
"""Names, or their beginnings, that clip_benchmark knows and nobody can score here, with the reason."""
IMAGENETV2 = ("ImageNetV2-matched-frequency", "imagenetv2-matched-frequency-format-val")
"""Folder names, as clip_benchmark renames it and as its archive unpacks."""


def place_of(root: str, name: str) -> Path:
    """The folder of a data set: ``{dataset}`` and ``{dataset_cleaned}`` become the name with ``/`` as ``-``."""
    cleaned = name.replace("/", "-")
    return Path(root.replace("{dataset}", cleaned).replace("{dataset_cleaned}", cleaned))


@dataclass(frozen=True)
class BenchmarkImages:
    """Images and classes of one of clip_benchmark's data sets, by position."""

    dataset: Any
    root: str

    def __len__(self) -> int:
        return len(self.dataset)

    def key(self, index: int) -> str:
        return str(index)

    def load(self, index: int) -> tuple[Tensor, int]:
        try:
            image, label = self.dataset[index]
        except Exception as error:  # decoders raise whatever they like on damaged files
            raise BadSampleError("not_an_image", " ".join(str(error).split())[:160]) from None
        return image, int(label)

    def stamp(self) -> str:
        samples = getattr(self.dataset, "samples", None)
        return f"{self.root} {len(self)}" + (stamp_of_files(Path(path) for path, _ in samples) if samples else "")


def read_benchmark(
    name: str, folder: Path, split: str, download: bool, prompts: str
) -> tuple[BenchmarkImages, list[str], list[tuple[str, ...]]]:
    """Images, class names and prompts of a classification data set.

    Args:
        name: of FETCHED or LAID_OUT.
        folder: where it lies.
        split: train or test, or what else the set has.
        download: let torchvision fetch it, where torchvision can.
        prompts: own, or fahim2024 for class names as the contrastive-gap paper's code wrote them.

    Raises:
        ConfigError: a name that is unknown, or of a set that nobody can score here.
        DataError: files that are missing or malformed.
    """
    _check_name(name)
    fetch = download and name in FETCHED
    needed = folder / "caltech101" / "101_ObjectCategories" if name == "caltech101" else folder
    if not needed.is_dir() and not fetch:  # builders make folders or fetch what is not there
        raise _not_there(name, needed, "there is no such folder")
    try:
        dataset = (
            _imagenet_v2(folder) if name == "imagenetv2" else _built(name, str(folder), split=split, download=fetch)
        )
        names = list(dataset.classes)
        spoken = _as_paper_wrote(name, names, folder) if prompts == "fahim2024" else names
        filled = fill_templates(spoken, dataset.templates or DEFAULT_TEMPLATES)
    except Exception as error:  # other people's code on the user's files
        raise _not_there(name, folder, " ".join(str(error).split())[:160] or repr(error)) from error
    if type(dataset) is ImageFolder and len(dataset.class_to_idx) != len(names):  # it numbers what is there
        raise DataError(f"{name} has {len(names)} classes, but {folder} has {len(dataset.class_to_idx)} class folders")
    return BenchmarkImages(dataset, str(folder)), names, filled


def _check_name(name: str) -> None:
    if name in FETCHED or name in LAID_OUT:
        return
    for beginning, reason in REFUSED.items():
        if name.startswith(beginning):
            raise ConfigError(f"datasets: {name} {reason}")
    close = difflib.get_close_matches(name, [*FETCHED, *LAID_OUT, *RETRIEVAL_SETS], n=1)
    hint = f", did you mean {close[0]}?" if close else ""
    raise ConfigError(f"datasets: clip_benchmark has no data set {name!r}{hint}")


def _not_there(name: str, place: Path, reason: str) -> DataError:
    hint = "download=true lets torchvision fetch it" if name in FETCHED else "torchvision cannot fetch it"
    reason = reason.replace(" You can use download=True to download it", "")
    return DataError(f"{name} was looked for in {place} ({reason}); {hint}")


def _built(name: str, root: str, **options: Any) -> Any:
    from clip_benchmark.datasets.builder import build_dataset  # heavy, and most runs do not need it

    return build_dataset(name, root=root, transform=_to_tensor, **options)


def _to_tensor(image: Any) -> Tensor:
    return image_tensor(image, sys.maxsize)[0]


def _imagenet_v2(folder: Path) -> ImageFolder:
    """ImageNet-V2, whose folders are numbered by class; clip_benchmark's own class would fetch it."""
    place = next((folder / name for name in IMAGENETV2 if (folder / name).is_dir()), folder)
    dataset: Any = ImageFolder(str(place), transform=_to_tensor)
    numbers = [int(name) for name in dataset.classes]
    dataset.target_transform = numbers.__getitem__
    packaged = files("clip_benchmark") / "datasets"
    dataset.classes, dataset.templates = (
        json.loads((packaged / f"en_{kind}.json").read_text(encoding="utf-8"))["imagenet1k"]
        for kind in ("classnames", "zeroshot_classification_templates")
    )
    return dataset


def _as_paper_wrote(name: str, class_names: Sequence[str], folder: Path) -> list[str]:
    """The contrastive-gap paper's slips: all synonyms of a class as a Python tuple, or 'photo of' twice."""
    if name == "imagenet1k":
        synonyms, _ = load_meta_file(str(folder))  # torchvision orders classes by their WordNet number
        return [str(synonyms[number]) for number in sorted(synonyms)]
    return (
        [f"photo of {class_name}" for class_name in class_names] if name in ("dtd", "caltech101") else list(class_names)
    )


def read_retrieval(name: str, folder: Path, split: str) -> list[FilePair]:
    """Images and their captions, in clip_benchmark's order.

    Args:
        name: of RETRIEVAL_SETS.
        folder: Flickr's has the images and NAME_SPLIT_karpathy.txt; COCO's train2014, val2014 and
            coco_SPLIT_karpathy.json (https://github.com/mehdidc/retrieval_annotations).
        split: train, val or test.

    Raises:
        DataError: a file is missing or malformed.
    """
    if split not in ("train", "val", "test"):
        raise DataError(f"{name} has the splits train, val and test, not {split!r}")
    if name == "mscoco_captions":
        return _coco_pairs(
            folder / f"coco_{split}_karpathy.json", folder / f"{'train' if split == 'train' else 'val'}2014"
        )
    return _flickr_pairs(folder / f"{name}_{split}_karpathy.txt")


def _flickr_pairs(path: Path) -> list[FilePair]:
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(_text(path).split("\n")[1:], 2):  # the first line is the header
        image, comma, caption = line.strip().partition(".jpg,")
        if comma:
            captions.setdefault(f"{image}.jpg", []).append(caption)
        elif image:
            raise DataError(f"{path}, line {number}: not IMAGE.jpg,CAPTION")
    if not captions:
        raise DataError(f"{path} has no captions")
    return [FilePair(name, path.parent / name, tuple(texts)) for name, texts in captions.items()]


def _coco_pairs(path: Path, folder: Path) -> list[FilePair]:
    try:
        tree = json.loads(_text(path))
        captions: dict[int, list[str]] = {image["id"]: [] for image in tree["images"]}
        for annotation in tree["annotations"]:
            captions[annotation["image_id"]].append(str(annotation["caption"]))
        names = {image["id"]: str(image["file_name"]) for image in tree["images"]}
        return [FilePair(str(i), folder / names[i], tuple(captions[i])) for i in sorted(names)]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not COCO's caption format ({error!r})") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"looked for {path}, it cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason} at byte {error.start})") from None


# The webdataset layout: DATASET/SPLIT/nshards.txt, DATASET/SPLIT/0.tar ... and text files beside the splits.


def shard_paths(folder: Path, split: str) -> list[str]:
    """The shards of a split.

    Raises:
        DataError: nshards.txt is missing or no number, or the last shard is not there.
    """
    count = folder / split / "nshards.txt"
    text = _text(count).strip()
    if not re.fullmatch(r"\d{1,9}", text):
        raise DataError(f"{count} is not the number of shards")
    number = int(text)
    last = folder / split / f"{number - 1}.tar"
    if number < 1 or not last.is_file():
        raise DataError(f"{count} says {number} shards, but {last} is not there")
    return [str(folder / split / f"{k}.tar") for k in range(number)]


def shards_type(folder: Path) -> str:
    """What dataset_type.txt says: classification if it is not there, or retrieval.

    Raises:
        DataError: a type that nobody can score here.
    """
    path = folder / "dataset_type.txt"
    task = _text(path).strip().lower() if path.is_file() else "classification"
    if task not in ("classification", "retrieval"):
        raise DataError(f"{path} says {task[:40]!r}; only classification and retrieval can be scored")
    return task


def shards_prompts(folder: Path) -> tuple[list[str], list[tuple[str, ...]]]:
    """Class names and prompts beside the splits.

    Raises:
        DataError: a file that is missing or empty, a class without a name, or a template without a place for it.
    """
    path = folder / "zeroshot_classification_templates.txt"
    names, templates = (
        [line.strip() for line in _text(p).rstrip().split("\n")] for p in (folder / "classnames.txt", path)
    )
    if "" in names:  # classes are numbered by their lines
        raise DataError(f"{folder / 'classnames.txt'}, line {names.index('') + 1}: the class has no name")
    templates = [template for template in templates if template]
    if not templates:
        raise DataError(f"{path} is empty")
    try:
        return names, fill_templates(names, templates)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
