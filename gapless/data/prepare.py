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
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from gapless.data.images import BadSampleError, decode_image, image_format
from gapless.data.pairs import PairSource
from gapless.data.samples import BadSample
from gapless.errors import DataError

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
    """Pairs decoded once, so that no broken image enters a shard, and resized if wanted."""

    def __init__(self, source: PairSource, resize: int | None, max_pixels: int) -> None:
        self.source, self.resize, self.max_pixels = source, resize, max_pixels

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Encoded | BadSample:
        try:
            pair = self.source.load(index)
            captions = tuple(" ".join(caption.split()) for caption in pair.captions if caption.strip())
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
    shards.json last.

    Args:
        source: the pairs.
        output: folder, made if missing; must hold no shards.
        resize: largest length of the shorter side; null keeps all sizes.
        samples_per_shard: pairs of one file.
        workers: decoding processes.
        max_pixels: larger images are left out.
        max_bad_fraction: more left-out samples than this share are an error, at the end.

    Raises:
        DataError: the folder has shards already, or too many samples are bad.
    """
    output.mkdir(parents=True, exist_ok=True)
    if any(output.glob("*.tar")):
        raise DataError(f"--output: {output} already has .tar files, choose a new folder")
    prepared = _write_all(_Encoder(source, resize, max_pixels), output, samples_per_shard, workers)
    skipped = prepared.skipped
    bad = sum(skipped.values())
    if not prepared.shards or bad > max_bad_fraction * len(source):
        raise DataError(
            f"{bad} of {len(source)} samples cannot be used ({prepared.skipped}), "
            f"allowed is --max_bad_fraction={max_bad_fraction}"
        )
    tree = {"samples": prepared.samples, "skipped": prepared.skipped, "shards": prepared.shards}
    (output / "shards.json").write_text(json.dumps(tree, indent=2) + "\n")
    return prepared


def _write_all(encoder: _Encoder, output: Path, samples_per_shard: int, workers: int) -> Prepared:
    loader = DataLoader(encoder, batch_size=None, num_workers=workers)
    prepared, skipped = Prepared(), Counter[str]()
    shard: list[Encoded] = []
    for sample in track(loader, "Writing shards", total=len(encoder)):
        if isinstance(sample, BadSample):
            skipped[sample.reason] += 1
            logger.warning("left out %s: %s", sample.key, sample.detail)
            continue
        shard.append(sample)
        if len(shard) == samples_per_shard:
            prepared.shards.append(_write(output, len(prepared.shards), shard))
            shard = []
    if shard:
        prepared.shards.append(_write(output, len(prepared.shards), shard))
    prepared.skipped = dict(skipped)
    return prepared


def _write(output: Path, number: int, samples: list[Encoded]) -> dict[str, Any]:
    path = output / f"{number:05d}.tar"
    temporary = path.with_suffix(".partial")
    with temporary.open("wb") as stream, wds.TarWriter(stream, encoder=False, mtime=0.0) as writer:
        for key, extension, image, captions in _named(samples, number):
            writer.write({"__key__": key, extension: image, "txt": "\n".join(captions).encode()})
    temporary.replace(path)
    data = path.read_bytes()
    return {
        "name": path.name,
        "samples": len(samples),
        "captions": sum(len(sample.captions) for sample in samples),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _named(samples: list[Encoded], number: int) -> Iterator[Encoded]:
    """Keys that a tar can carry: no folders and no dots, and no two the same."""
    for position, sample in enumerate(samples):
        plain = "".join(c if c.isalnum() or c in "-_" else "_" for c in sample.key)[-60:]
        yield sample._replace(key=f"{number:05d}{position:05d}_{plain}")
