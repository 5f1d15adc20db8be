import io

import numpy as np
import pytest
import torch
from PIL import Image

from gapless.data.images import BadSampleError, decode_image
from tests.data.pictures import picture

LIMIT = 25_000_000


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_decoded_pixels_are_pils(kind):
    data = picture(kind=kind)
    image, converted = decode_image(data, LIMIT)
    assert image.shape == (3, 16, 20)
    assert image.dtype == torch.uint8
    np.testing.assert_array_equal(
        image.permute(1, 2, 0).numpy(), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    )
    assert converted == []


def test_grey_becomes_three_channels():
    image, _ = decode_image(picture(mode="L"), LIMIT)
    assert image.shape == (3, 16, 20)
    assert bool((image[0] == image[2]).all())


def test_transparency_is_white_and_not_the_hidden_colour():
    hidden = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    image, converted = decode_image(encoded(hidden), LIMIT)
    assert converted == ["alpha"]
    assert bool((image == 255).all())


def test_palette_with_transparent_entry():
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((0, 0), 1)
    image, converted = decode_image(encoded(palette, transparency=0), LIMIT)
    assert converted == ["alpha"]
    assert image[:, 0, 0].tolist() == [200, 100, 50]
    assert image[:, 3, 3].tolist() == [255, 255, 255]


def test_cmyk_is_converted_and_counted():
    image, converted = decode_image(picture(mode="CMYK", kind="JPEG"), LIMIT)
    assert image.shape == (3, 16, 20)
    assert converted == ["cmyk"]


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (6, 5), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    image, converted = decode_image(data, LIMIT)
    assert "animated" in converted
    assert image[:, 2, 2].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not_an_image"),
        (b"<html>no picture</html>", "not_an_image"),
        (picture(kind="JPEG")[:-40], "truncated"),
        (picture(kind="PNG")[:-60], "truncated"),
        (picture(1, 1), "too_small"),
        (picture(60, 50), "too_many_pixels"),
    ],
    ids=["empty", "html", "jpeg cut", "png cut", "1x1", "large"],
)
def test_what_cannot_be_used_says_why(data, reason):
    with pytest.raises(BadSampleError) as caught:
        decode_image(data, max_pixels=2000)
    assert caught.value.reason == reason


def test_pixel_limit_is_read_from_the_header():
    # Only the header of a 60,000 x 60,000 picture: refused before a pixel is decoded.
    header = bytearray(picture(10, 10))
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    import zlib

    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    with pytest.raises(BadSampleError, match="too many pixels"):
        decode_image(bytes(header), LIMIT)
