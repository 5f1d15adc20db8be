"""A model's embeddings of a data set as a store that decoders learn from."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from accelerate import PartialState

from gapless.config import Config, DataConfig
from gapless.config.rules import check_config
from gapless.data import PairSource, build_source
from gapless.decode.store import NAME, save_features, save_means
from gapless.environment import join_processes
from gapless.errors import ConfigError, DataError
from gapless.eval.cache import weights_digest
from gapless.eval.suite import Precision, Suite
from gapless.models import load_model
from gapless.run_folder import rewritten

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")


def embed_store(
    model: str,
    pretrained: str | None,
    data: DataConfig,
    folder: Path,
    splits: Sequence[str] | None = None,
    precision: Precision = "fp32",
    batch_size: int = 256,
) -> dict[str, int]:
    """Embed images and all of their captions, on all processes.

    The store is written beside the folder and takes its place when it is whole. All images and texts that were in it
    are gone then, other modalities and files stay.

    Args:
        model: run, export or open_clip model.
        pretrained: tag or weights file of an open_clip model.
        data: the pairs.
        folder: of the store.
        splits: that are embedded; the means are those of train. None for all that the data have.
        precision: of the forward passes.
        batch_size: of one forward pass in a process.

    Returns:
        Rows written, by ``MODALITY_SPLIT``.

    Raises:
        ConfigError: a setting that cannot work, no split train, whose means decoders need.
        DataError: a split that the data do not have; files of images or texts in the folder that are not ours.
    """
    join_processes()
    if batch_size < 1:
        raise ConfigError(f"batch_size: {batch_size} does not work, it must be at least 1")
    check_config(Config(data=data))
    sources = _open(data, splits)
    for path in sorted(folder.glob("*.npz")):
        if _is_ours(path):
            raise DataError(f"{path} was not written by gapless and would be mixed with these: name another folder")
    suite = Suite(load_model(model, pretrained), None, precision, batch_size, data.workers, data.max_bad_fraction)
    digest = weights_digest(suite.loaded.model)
    written: dict[str, int] = {}
    main = PartialState().is_main_process
    with rewritten(folder, _is_ours) if main else nullcontext(folder) as place:
        for split, source in sources.items():
            embedded = suite.embed(f"{data.source} {split}", source)
            images, owners = embedded.keys, [embedded.keys[k] for k in embedded.image_of_text.tolist()]
            written |= {f"image_{split}": len(images), f"text_{split}": len(owners)}
            if not main:
                continue
            save_features(place, "image", split, images, embedded.image, model=digest)
            save_features(place, "text", split, owners, embedded.text, embedded.captions, digest)
            if split == "train":
                means = {"image": embedded.image.mean(dim=0), "text": embedded.text.mean(dim=0)}
                save_means(place, means, digest)
    return written


def _open(data: DataConfig, splits: Sequence[str] | None) -> dict[str, PairSource]:
    """The splits that were asked for, or those that the data have; before anything is embedded."""
    for split in splits or ():
        if split not in SPLITS:
            raise ConfigError(f"splits: {split!r} is not one of {', '.join(SPLITS)}")
    if splits is not None and not splits:
        raise ConfigError("splits: name at least one of train, val, test")
    if splits is not None and "train" not in splits:
        raise ConfigError("splits: train is needed, its means are what collapse subtracts")
    if splits is not None:
        return {split: build_source(data, split) for split in splits}
    has_test = data.source == "emoji" or (data.source == "coco" and data.karpathy is not None)
    opened = {split: build_source(data, split) for split in SPLITS if split != "test" or has_test}
    missing = [split for split in SPLITS if split not in opened or (split != "train" and not len(opened[split]))]
    if missing:
        logger.info("%s has no split %s: the others are embedded", data.source, " and no split ".join(missing))
    return {split: source for split, source in opened.items() if split not in missing}


def _is_ours(path: Path) -> bool:
    """Whether a file is of the images or texts of a store, which belongs to one embedding."""
    match = NAME.fullmatch(path.name)
    return match is not None and match[1] in ("image", "text")
