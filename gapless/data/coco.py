"""COCO captions in the official layout, with Karpathy's split if wanted."""

import json
import logging
from pathlib import Path
from typing import Any

from gapless.config import DataConfig
from gapless.data.images import printable
from gapless.data.pairs import FilePair, FileSource
from gapless.errors import DataError

logger = logging.getLogger(__name__)

LAYOUT = "expected ROOT/train2017/*.jpg, ROOT/val2017/*.jpg and ROOT/annotations/captions_{train,val}2017.json"


def build_coco(config: DataConfig, split: str) -> FileSource:
    """The source ``coco``; raises DataError as :func:`coco_pairs`."""
    karpathy = Path(config.karpathy) if config.karpathy else None
    return FileSource(coco_pairs(Path(str(config.path)), split, karpathy))


def coco_pairs(root: Path, split: str, karpathy: Path | None = None) -> list[FilePair]:
    """The pairs of a split, each with all its captions (five, mostly) in the order of the annotation file.

    Args:
        root: folder with train2017, val2017 and annotations.
        split: train or val; with Karpathy's file also test.
        karpathy: path of dataset_coco.json (its restval images count as train), dataset_flickr30k.json or
            dataset_flickr8k.json, whose images lie in ROOT itself.

    Raises:
        DataError: a folder or file is missing or malformed.
    """
    if not root.is_dir():
        raise DataError(f"data.path: looked for the folder {printable(root)} with the images, it is not there")
    if karpathy is not None:
        return _karpathy_pairs(root, split, karpathy)
    if split not in ("train", "val"):
        raise DataError(f"COCO has no captions for the split {split!r}: use train or val, or set data.karpathy")
    folder = root / f"{split}2017"
    tree = _read_json(root / "annotations" / f"captions_{split}2017.json")
    if not folder.is_dir():
        raise DataError(f"data.path: looked for the folder {folder}, it is not there; {LAYOUT}")
    try:
        captions: dict[int, list[str]] = {}
        for annotation in tree["annotations"]:
            captions.setdefault(annotation["image_id"], []).append(_text(annotation["caption"]))
        images = {image["id"]: _text(image["file_name"]) for image in tree["images"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"captions_{split}2017.json: not COCO's caption format ({error!r})") from None
    if len(images) < len(tree["images"]):
        logger.warning(
            "captions_%s2017.json: %d duplicate image ids, one of each is used",
            split,
            len(tree["images"]) - len(images),
        )
    return [FilePair(str(i), folder / name, tuple(captions.get(i, ()))) for i, name in images.items()]


def _karpathy_pairs(root: Path, split: str, path: Path) -> list[FilePair]:
    splits = {"train", "restval"} if split == "train" else {split}
    folders = {"train2014": "train2017", "val2014": "train2017"}  # 2017 merged nearly all images into train2017
    pairs = []
    try:
        for image in _read_json(path)["images"]:
            if image["split"] not in splits:
                continue
            folder = root / image.get("filepath", "")  # Flickr's images lie in one folder
            file = folder / _text(image["filename"])
            if not folder.is_dir():
                file = root / folders.get(image["filepath"], image["filepath"]) / f"{image['cocoid']:012d}.jpg"
                file = file if file.exists() else root / "val2017" / file.name
            pairs.append(
                FilePair(str(image.get("cocoid", file.stem)), file, tuple(_text(s["raw"]) for s in image["sentences"]))
            )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"data.karpathy: {path} is not Karpathy's format ({error!r})") from None
    if not pairs:
        raise DataError(f"data.karpathy: {path} has no images in the split {split!r}")
    places = {pair.path.parent for pair in pairs}
    if not any(place.is_dir() for place in places):
        raise DataError(f"data.path: looked for the folder {printable(min(places))} with the images, it is not there")
    return pairs


def _text(value: Any) -> str:
    """A text of a JSON file; half of a surrogate pair, which nothing can encode, becomes a question mark."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value.encode("utf-8", "replace").decode()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"looked for {path}, it is not there; {LAYOUT}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error})") from None
