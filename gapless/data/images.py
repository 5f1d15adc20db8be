"""Encoded image bytes to uint8 tensors, and the reasons why some cannot be used.

A picture is shown as it is stored: the EXIF orientation is not applied, as open_clip and clip_benchmark do not.
Pillow itself turns TIFF files, for them as well.
"""

import io
import os
import stat
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import EpsImagePlugin, Image, UnidentifiedImageError
from torch import Tensor

SKIPPED = (
    "missing_file",
    "not_an_image",
    "truncated",
    "too_many_pixels",
    "too_small",
    "no_caption",
    "too_many_bytes",
)
"""Why a sample is left out; each is counted as ``data/skipped_<reason>``."""
LONG_CAPTION = "long_caption"
CONVERTED = ("animated", "cmyk", "alpha", "bit_depth", LONG_CAPTION)
"""What is changed in a sample that is used; each is counted as ``data/converted_<reason>``."""
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "jpe", "jfif", "tif", "tiff", "avif")
"""Endings of the files that are read as pictures."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""What is decoded, whatever a file's name says. Pillow knows more, and starts a program for some of it."""
MAX_BYTES = 2**30
"""Larger files are not read."""
BRIGHTEST = (1, 255, 32767, 65535)
"""Values of white in pictures whose format has none (floating point, 32 bits), smallest first; 32767 with a sign."""

EpsImagePlugin.gs_binary = False  # other libraries open pictures by Pillow too, and an EPS would start Ghostscript


class BadSampleError(Exception):
    """A sample that cannot be used; ``reason`` is one of SKIPPED."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason.replace('_', ' ')}{f' ({detail})' if detail else ''}")
        self.reason = reason


def printable(path: Path | str) -> str:
    r"""A file's name as text that can be printed and encoded: bytes that are no UTF-8 become ``\xff``."""
    try:
        return os.fsencode(path).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a surrogate pair, as JSON can hold
        return str(path).encode("utf-8", "backslashreplace").decode()


def read_picture(path: Path) -> bytes:
    """The bytes of a picture's file.

    Raises:
        BadSampleError: it is not there, is no regular file (reading a pipe would wait for ever) or is too large.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BadSampleError("missing_file", f"{printable(path)} is not a regular file")
        if status.st_size > MAX_BYTES:
            raise BadSampleError("too_many_bytes", f"{printable(path)} has {status.st_size / 2**30:.1f} GiB")
        return path.read_bytes()
    except OSError as error:
        raise BadSampleError("missing_file", f"{printable(path)}: {error.strerror}") from None
    except ValueError as error:  # a NUL in the name
        raise BadSampleError("missing_file", str(error)) from None


def decode_image(data: bytes, max_pixels: int) -> tuple[Tensor, list[str]]:
    """Decode an image to RGB.

    Transparency is composited on white, an animation gives its first frame. Grey values of more than 8 bits are scaled
    from the range of their format; floating-point and 32-bit pictures have none, and take the least of 0 to 1, 255 or
    65535 that holds their values.

    Args:
        data: the encoded file, one of FORMATS.
        max_pixels: larger images are refused by their header, before decoding.

    Returns:
        uint8 (3, H, W), and which of CONVERTED happened.

    Raises:
        BadSampleError: not an image, one that its decoder refuses, too many pixels, or 1 x 1.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow doubts and still decodes is used
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                return image_tensor(image, max_pixels)
    except BadSampleError:
        raise
    except UnidentifiedImageError:
        raise BadSampleError("not_an_image") from None
    except Image.DecompressionBombError:
        raise BadSampleError("too_many_pixels") from None
    except Exception as error:  # decoders raise whatever they like: IndexError, SyntaxError, struct.error, MemoryError
        raise BadSampleError("truncated", str(error) or type(error).__name__) from None


def image_format(data: bytes) -> str:
    """Pillow's name of an encoded image's format, read from its beginning; "" for what is none of FORMATS."""
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            return image.format or ""
    except Exception:  # as in decode_image
        return ""


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)  # AVIF came with Pillow 11.3


def image_tensor(image: Image.Image, max_pixels: int) -> tuple[Tensor, list[str]]:
    """What :func:`decode_image` makes of an image that is open already; raises whatever its decoder raises."""
    width, height = image.size
    if width * height > max_pixels:
        raise BadSampleError("too_many_pixels", f"{width} x {height}")
    if width * height <= 1:
        raise BadSampleError("too_small", f"{width} x {height}")
    converted = ["animated"] if getattr(image, "is_animated", False) else []
    image.load()
    rgb, change = _to_rgb(image)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous(), converted + change


def _to_rgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    if image.mode[0] in "IF":
        return Image.fromarray(_eight_bits(image)).convert("RGB"), ["bit_depth"]
    if image.has_transparency_data:
        # convert("RGB") would show the hidden colour of transparent pixels.
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"), ["alpha"]
    return image.convert("RGB"), ["cmyk"] if image.mode == "CMYK" else []


def _eight_bits(image: Image.Image) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Grey values of 16 or 32 bits, or floating point, as 0 to 255; convert("RGB") would clip them."""
    values = np.nan_to_num(np.asarray(image).astype(np.float32))
    lowest, highest = float(values.min()), float(values.max())
    if image.mode.startswith("I;") or image.format == "PNG":  # Pillow before 11 gives 16-bit PNG the mode I
        bits = getattr(image, "tag_v2", {}).get(258, (16,))[0]  # TIFF's BitsPerSample: 12 in a picture of mode I;16
        white = 2.0**bits - 1
    else:
        known = [w for w in BRIGHTEST if w >= max(highest, -lowest) and (w != 32767 or lowest < 0)]
        white = known[0] if known else max(highest, -lowest)
    black = -white if lowest < 0 else 0.0
    return (((values - black) / (white - black)).clip(0, 1) * 255).round().astype(np.uint8)
