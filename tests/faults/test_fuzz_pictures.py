"""Damaged pictures: a picture of its size, or a bad sample that says why; never another error."""

import io
import os
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image, features

from gapless.data.images import CONVERTED, SKIPPED, BadSampleError, decode_image, image_format

EXAMPLES = 30_000 if os.environ.get("GAPLESS_FAULTS") == "full" else 2_000
MAX_PIXELS = 4_000


def encoded(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    depth = np.float32 if mode == "F" else np.int32 if mode == "I" else np.uint16 if mode == "I;16" else np.uint8
    channels = {"RGBA": 4, "CMYK": 4, "RGB": 3, "P": 3, "LA": 2}.get(mode)
    values = np.random.default_rng(len(kind) + len(mode)).integers(0, 255, (12, 9, channels or 1)).astype(depth)
    values[4:8] = 200  # something to compress
    if mode == "P":
        image = Image.fromarray(values).quantize(16)
    else:
        image = Image.fromarray(values if channels else values[..., 0], mode if mode == "CMYK" else None)
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": [image.transpose(Image.Transpose.ROTATE_180)] * 2}
    image.save(buffer, kind, **(more if options.pop("frames", False) else {}), **options)
    return buffer.getvalue()


ORIGINALS = [
    *(encoded("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
    encoded("JPEG", progressive=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
    *(encoded("PNG", mode) for mode in ("RGB", "RGBA", "LA", "P", "L", "I;16")),
    encoded("PNG", frames=True),
    encoded("PNG", "P", transparency=3),
    encoded("GIF", "P"),
    encoded("GIF", "P", frames=True),
    encoded("WEBP"),
    encoded("WEBP", "RGBA", lossless=True),
    encoded("WEBP", frames=True),
    *(encoded("BMP", mode) for mode in ("RGB", "L", "P")),
    *(encoded("TIFF", mode) for mode in ("RGB", "CMYK", "P", "I;16", "I", "F")),
    *(encoded("TIFF", compression=name) for name in ("tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg")),
    encoded("TIFF", frames=True),
    *([encoded("AVIF")] if features.check("avif") else []),
]


def damaged(chance: random.Random) -> bytes:
    """A picture some of whose bytes are changed, put in, taken out or cut off, most of them in its header."""
    data = bytearray(chance.choice(ORIGINALS))
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(max(1, min(chance.choice((20, 80, 300, 10_000)), len(data))))
        if place < 12 and chance.random() < 0.9:  # what tells the format
            place = min(place + 12, len(data) - 1)
        how = chance.choice((*("change",) * 6, "put in", "take out", "cut"))
        byte = bytes([chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))])
        if how == "change":
            data[place : place + 1] = byte
        elif how == "put in":
            data[place:place] = byte * chance.randint(1, 9)
        else:
            del data[place : place + chance.randint(1, 9) if how == "take out" else None]
    return bytes(data)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(st.integers(0, 2**64))
def test_a_damaged_picture_is_a_picture_or_a_bad_sample(seed: int) -> None:
    data = damaged(random.Random(seed))
    assert image_format(data) in ("", "JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF")
    refusal = None
    try:
        image, converted = decode_image(data, MAX_PIXELS)
    except BadSampleError as error:
        refusal = error
    if refusal is not None:
        assert refusal.reason in SKIPPED
        assert "\n" not in str(refusal)
        return
    assert (image.dtype, image.shape[0]) == (torch.uint8, 3)
    assert 1 < image.shape[1] * image.shape[2] <= MAX_PIXELS
    assert {*converted} <= {*CONVERTED}


def test_the_originals_are_whole() -> None:
    for data in ORIGINALS:
        assert decode_image(data, MAX_PIXELS)[0].shape == (3, 12, 9)
