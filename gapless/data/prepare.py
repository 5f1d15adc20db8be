"""Any source written as webdataset shards, with counts and checksums beside them."""

import hashlib
import io
import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import webdataset as wds
from PIL import Image
from rich.progress import track
from torch.utils.data import Dataset
from torchvision.transforms import v2

from gapless.data.images import BadSampleError, decode_image, image_format
from gapless.data.manifest import SHARDS_FILE, UNFINISHED_FILE
from gapless.data.pairs import PairSource
from gapless.data.samples import BadSample, spoken
from gapless.data.unfinished import only_writer, read_unfinished, write_unfinished
from gapless.data.workers import Loader
from gapless.errors import ConfigError, DataError, StoppedError
from gapless.run_folder import checksum, write_text, write_whole
from gapless.signals import StopFlag

logger = logging.getLogger(__name__)

JPEG_QUALITY = 95
EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}


class Encoded(NamedTuple):
    """An image file as it goes into a shard."""

    key: str
    extension: str
    image: bytes
    captions: tuple[str, ...]


class _Encoder(Dataset[Encoded | BadSample]):
    """Pairs from a position on, decoded once so that no broken image enters a shard, and resized if wanted."""

    def __init__(self, source: PairSource, resize: int | None, max_pixels: int, start: int) -> None:
        self.source, self.resize, self.max_pixels, self.start = source, resize, max_pixels, start

    def __len__(self) -> int:
        return len(self.source) - self.start

    def __getitem__(self, index: int) -> Encoded | BadSample:
        index += self.start
        try:
            pair = self.source.load(index)
            captions = tuple(" ".join(caption.split()) for caption in spoken(pair.captions))
            if not captions:
                raise BadSampleError("no_caption")
            decoded, _ = decode_image(pair.image, self.max_pixels)
        except BadSampleError as error:
            return BadSample(self.source.key(index), error.reason, str(error))
        extension = EXTENSIONS.get(image_format(pair.image))
        if extension and (self.resize is None or min(decoded.shape[1:]) <= self.resize):
            return Encoded(pair.key, extension, pair.image, captions)
        if self.resize is not None and min(decoded.shape[1:]) > self.resize:
            decoded = v2.functional.resize(decoded, [self.resize], v2.InterpolationMode.BICUBIC, antialias=True)
        buffer = io.BytesIO()
        Image.fromarray(decoded.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=JPEG_QUALITY)
        return Encoded(pair.key, "jpg", buffer.getvalue(), captions)


@dataclass
class Prepared:
    """What :func:`prepare_shards` wrote."""

    shards: list[dict[str, Any]] = field(default_factory=list)
    """name, samples, captions, bytes and sha256 of each shard."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Left-out samples by reason."""

    @property
    def samples(self) -> int:
        """Pairs in all shards."""
        return sum(shard["samples"] for shard in self.shards)


def prepare_shards(
    source: PairSource,
    output: Path,
    resize: int | None = None,
    samples_per_shard: int = 5000,
    workers: int = 2,
    max_pixels: int = 25_000_000,
    max_bad_fraction: float = 0.01,
) -> Prepared:
    """Write a source as ``00000.tar`` ... (KEY.jpg and KEY.txt, one caption a line) and ``shards.json``.

    Images keep their bytes unless they are resized. A shard appears under its name only when it is whole, and
    shards.json last; until then the folder is marked as unfinished, and the same call continues what was interrupted.

    Args:
        source: the pairs.
        output: folder, made if missing; must hold no shards but those of the same call that was interrupted.
        resize: largest length of the shorter side, at least 1; null keeps all sizes.
        samples_per_shard: pairs of one file, at least 1.
        workers: decoding processes, 0 for none.
        max_pixels: larger images are left out.
        max_bad_fraction: more left-out samples than this share, from 0 to 1, are an error.

    Raises:
        ConfigError: an argument out of its range.
        DataError: the folder has other shards, cannot be written, or too many samples are bad.
        StoppedError: SIGTERM or SIGINT came.
    """
    for key, value, holds, works in (
        ("resize", resize, resize is None or resize >= 1, "at least 1"),
        ("samples_per_shard", samples_per_shard, samples_per_shard >= 1, "at least 1"),
        ("workers", workers, workers >= 0, "0 or more"),
        ("max_bad_fraction", max_bad_fraction, 0 <= max_bad_fraction <= 1, "between 0 and 1"),
    ):
        if not holds:
            raise ConfigError(f"{key}: {value} does not work, it must be {works}")
    settings = {"source": _identity(source), "resize": resize, "samples_per_shard": samples_per_shard,
                "max_pixels": max_pixels}  # fmt: skip
    with only_writer(output):
        shards = read_unfinished(output, settings)
        if shards:
            logger.info("%s: continues after %d whole shards", output, len(shards))
        try:
            skipped = _write_all(source, output, settings, shards, workers, max_bad_fraction)
        except BaseException:
            if not shards:
                (output / UNFINISHED_FILE).unlink(missing_ok=True)
            raise
        listed = [{k: v for k, v in shard.items() if k not in ("end", "skipped")} for shard in shards]
        prepared = Prepared(listed, skipped)
        tree = {"samples": prepared.samples, "skipped": prepared.skipped, "shards": prepared.shards}
        write_text(output / SHARDS_FILE, json.dumps(tree, indent=2) + "\n")
        (output / UNFINISHED_FILE).unlink()
    return prepared


def _identity(source: PairSource) -> str:
    """What changes when the pairs do."""
    digest = hashlib.sha256(source.stamp().encode("utf-8", "backslashreplace"))
    for index in range(len(source)):
        digest.update(repr((source.key(index), tuple(source.captions(index)))).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def _write_all(
    source: PairSource,
    output: Path,
    settings: dict[str, Any],
    shards: list[dict[str, Any]],
    workers: int,
    max_bad_fraction: float,
) -> dict[str, int]:
    """Write what is missing and add it to ``shards``; the left-out samples by reason."""
    start, bad = (shards[-1]["end"], Counter[str](shards[-1]["skipped"])) if shards else (0, Counter[str]())
    encoder = _Encoder(source, settings["resize"], settings["max_pixels"], start)
    pending: list[Encoded] = []
    write_unfinished(output, settings, shards)
    with StopFlag() as stop:
        loader = Loader(encoder, workers, batch_size=None)
        for end, sample in enumerate(track(loader, "Writing shards", total=len(encoder)), start + 1):
            if stop.is_set:
                reason = f"stopped by a signal after {len(shards)} whole shards in {output}"
                raise StoppedError(f"{reason}; the same command continues")
            if isinstance(sample, BadSample):
                bad[sample.reason] += 1
                _note_bad(sample, bad, len(source), max_bad_fraction)
            else:
                pending.append(sample)
            if len(pending) == settings["samples_per_shard"] or (pending and end == len(source)):
                written = _write(output, len(shards), pending)
                shards.append(written | {"end": end, "skipped": dict(bad)})
                write_unfinished(output, settings, shards)
                pending = []
    if not shards:
        raise DataError(f"{len(source)} samples, and none of them can be used: {dict(bad)}")
    return dict(bad)


def _note_bad(sample: BadSample, bad: Counter[str], total: int, max_bad_fraction: float) -> None:
    logger.warning("left out %s: %s", sample.key, sample.detail)
    if bad.total() > max_bad_fraction * total:
        raise DataError(
            f"{bad.total()} of {total} samples cannot be used ({dict(bad)}; the last: {sample.key}, {sample.detail}), "
            f"allowed is max_bad_fraction={max_bad_fraction:g}; with a larger one the same command continues"
        )


def _write(output: Path, number: int, samples: list[Encoded]) -> dict[str, Any]:
    path = output / f"{number:05d}.tar"
    with (
        write_whole(path) as temporary,
        temporary.open("wb") as stream,
        wds.TarWriter(stream, encoder=False, mtime=0.0) as writer,
    ):
        for key, extension, image, captions in _named(samples, number):
            writer.write({"__key__": key, extension: image, "txt": "\n".join(captions).encode()})
    return {
        "name": path.name,
        "samples": len(samples),
        "captions": sum(len(sample.captions) for sample in samples),
        "bytes": path.stat().st_size,
        "sha256": checksum(path),
    }


def _named(samples: list[Encoded], number: int) -> Iterator[Encoded]:
    """Keys that a tar can carry: no folders and no dots, and no two the same."""
    for position, sample in enumerate(samples):
        plain = "".join(c if c.isalnum() or c in "-_" else "_" for c in sample.key)[-60:]
        yield sample._replace(key=f"{number:05d}{position:05d}_{plain}")
