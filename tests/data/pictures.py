"""Pictures for tests, as encoded files."""

import io

import numpy as np
from PIL import Image


def picture(width: int = 20, height: int = 16, mode: str = "RGB", kind: str = "PNG", seed: int = 0, **options) -> bytes:
    """A random picture in a format."""
    channels = {"RGB": 3, "RGBA": 4, "CMYK": 4, "L": 1}[mode]
    shape = (height, width) if channels == 1 else (height, width, channels)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode if mode == "CMYK" else None).save(buffer, kind, **options)
    return buffer.getvalue()
