"""A model's embeddings of a data set as a store that decoders learn from."""

from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState
from torch import Tensor

from gapless.config import DataConfig
from gapless.data import build_source
from gapless.decode.store import save_features, save_means
from gapless.environment import join_processes
from gapless.errors import DataError
from gapless.eval.suite import Precision, Suite
from gapless.models import load_model


def embed_store(
    model: str,
    pretrained: str | None,
    data: DataConfig,
    folder: Path,
    splits: Sequence[str] = ("train", "val", "test"),
    precision: Precision = "fp32",
    batch_size: int = 256,
) -> dict[str, int]:
    """Embed images and all of their captions, on all processes.

    Args:
        model: run, export or open_clip model.
        pretrained: tag or weights file of an open_clip model.
        data: the pairs.
        folder: of the store.
        splits: that are embedded; the means are those of train.
        precision: of the forward passes.
        batch_size: of one forward pass in a process.

    Returns:
        Rows written, by ``MODALITY_SPLIT``.

    Raises:
        DataError: no split train, whose means decoders need.
    """
    if "train" not in splits:
        raise DataError("--splits: train is needed, its means are what collapse subtracts")
    join_processes()
    suite = Suite(load_model(model, pretrained), None, precision, batch_size, data.workers, data.max_bad_fraction)
    written: dict[str, int] = {}
    means: dict[str, Tensor] = {}
    for split in splits:
        found = suite.embed(f"{data.source} {split}", build_source(data, split))
        images, owners = found.keys, [found.keys[k] for k in found.owner.tolist()]
        written |= {f"image_{split}": len(images), f"text_{split}": len(owners)}
        if not PartialState().is_main_process:
            continue
        save_features(folder, "image", split, images, found.images.features)
        save_features(folder, "text", split, owners, found.texts, found.captions)
        if split == "train":
            means = {"image": found.images.features.mean(dim=0), "text": found.texts.mean(dim=0)}
    if means:
        save_means(folder, means)  # last: where it lies, everything does
    return written
