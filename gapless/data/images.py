"""Encoded image bytes to uint8 tensors, and the reasons why some cannot be used."""

import io

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

SKIPPED = ("missing_file", "not_an_image", "truncated", "too_many_pixels", "too_small", "no_caption")
"""Why a sample is left out; each is counted as ``data/skipped_<reason>``."""
CONVERTED = ("animated", "cmyk", "alpha")
"""What is changed in an image that is used; each is counted as ``data/converted_<reason>``."""


class BadSampleError(Exception):
    """A sample that cannot be used; ``reason`` is one of SKIPPED."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason.replace('_', ' ')}{f' ({detail})' if detail else ''}")
        self.reason = reason


def decode_image(data: bytes, max_pixels: int) -> tuple[Tensor, list[str]]:
    """Decode an image to RGB; transparency is composited on white, an animation gives its first frame.

    Args:
        data: the encoded file (JPEG, PNG, WebP, GIF, BMP ...).
        max_pixels: larger images are refused by their header, before decoding.

    Returns:
        uint8 (3, H, W), and which of CONVERTED happened.

    Raises:
        BadSampleError: not an image, truncated, too many pixels, or 1 x 1.
    """
    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise BadSampleError("not_an_image") from None
    except Image.DecompressionBombError:
        raise BadSampleError("too_many_pixels") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise BadSampleError("truncated", str(error)) from None
    with image:
        width, height = image.size
        if width * height > max_pixels:
            raise BadSampleError("too_many_pixels", f"{width} x {height}")
        if width * height <= 1:
            raise BadSampleError("too_small", f"{width} x {height}")
        converted = ["animated"] if getattr(image, "n_frames", 1) > 1 else []
        try:
            rgb, change = _to_rgb(image)
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise BadSampleError("truncated", str(error)) from None
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous(), converted + change


def _to_rgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    image.load()
    if image.has_transparency_data:
        # convert("RGB") would show the hidden colour of transparent pixels.
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"), ["alpha"]
    return image.convert("RGB"), ["cmyk"] if image.mode == "CMYK" else []
