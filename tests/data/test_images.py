import io
import os
import struct

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from gapless.data import images
from gapless.data.images import BadSampleError, decode_image, read_picture
from gapless.data.transforms import build_eval_transform
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


def test_grey_of_16_bits_is_scaled_by_its_range():
    values = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    for kind, scaled in (("PNG", values), ("TIFF", values)):
        image, converted = decode_image(encoded(Image.fromarray(scaled), kind), LIMIT)
        assert converted == ["bit_depth"]
        assert image.tolist() == [[[0, 1, 128, 255]]] * 3


def test_grey_of_12_bits_in_a_tiff():
    packed = bytes([0x00, 0x08, 0x00, 0xFF, 0xF0, 0x00])  # 0, 2048, 4095, 0
    one = encoded(Image.new("L", (4, 1)), "TIFF")
    tags = {258: 12, 273: len(one), 279: len(packed)}
    image, converted = decode_image(with_tags(one, tags) + packed, LIMIT)
    assert (image[0].tolist(), converted) == ([[0, 128, 255, 0]], ["bit_depth"])


def with_tags(tiff: bytes, tags: dict[int, int]) -> bytes:
    """A little-endian TIFF some of whose tags have other values."""
    changed = bytearray(tiff)
    start = int.from_bytes(tiff[4:8], "little")
    for k in range(int.from_bytes(tiff[start : start + 2], "little")):
        entry = start + 2 + 12 * k
        tag = int.from_bytes(tiff[entry : entry + 2], "little")
        if tag in tags:
            changed[entry + 8 : entry + 12] = tags[tag].to_bytes(4, "little")
    return bytes(changed)


@pytest.mark.parametrize(
    ("values", "grey"),
    [
        ([0.0, 0.5, 1.0, np.nan], [0, 128, 255, 0]),
        ([0.0, 51.0, 102.0, 204.0], [0, 51, 102, 204]),
        ([0.0, 257.0, 65535.0, np.inf], [0, 0, 0, 255]),
        ([-1.0, 0.0, 1.0, 0.5], [0, 128, 255, 191]),
        ([0.0, 1e6, 5e5, 0.0], [0, 255, 128, 0]),
    ],
    ids=["to 1", "to 255", "infinite", "signed", "its own"],
)
def test_floating_point_takes_the_least_range_that_holds_it(values, grey):
    image, converted = decode_image(encoded(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF"), LIMIT)
    assert (image[2].tolist(), converted) == ([grey], ["bit_depth"])


def test_integers_of_32_bits():
    for values, grey in (([0, 100, 200, 255], [0, 100, 200, 255]), ([0, 40000, 257, 65535], [0, 156, 1, 255])):
        data = encoded(Image.fromarray(np.array([values], dtype=np.int32)), "TIFF")
        assert decode_image(data, LIMIT)[0][1].tolist() == [grey]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_treated_as_in_open_clip(kind):
    upright = Image.fromarray(np.arange(40, dtype=np.uint8).reshape(5, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees for show
    data = encoded(upright, kind, exif=exif)
    image, converted = decode_image(data, LIMIT)
    # Pillow turns TIFF when it is loaded, for open_clip as for us.
    assert (image.shape, converted) == ((3, 8, 5) if kind == "TIFF" else (3, 5, 8), [])
    theirs = open_clip.image_transform(8, is_train=False, mean=(0,) * 3, std=(1,) * 3, resize_mode="squash")
    ours = build_eval_transform({"size": 8, "resize_mode": "squash"})(image)
    read = Image.open(io.BytesIO(data)).convert("RGB")  # as webdataset's decoder gives it to open_clip
    assert float((theirs(read) * 255 - ours).abs().max()) <= 1.01


@pytest.mark.parametrize(
    "error",
    [
        IndexError,
        SyntaxError("x"),
        AssertionError,
        NotImplementedError,
        MemoryError,
        struct.error("y"),
        KeyError,
        EOFError,
    ],
)
def test_whatever_a_decoder_raises_is_a_bad_sample(monkeypatch, error):
    def broken(*_):
        raise error

    for target, name in ((PngImageFile, "load"), (PngImageFile, "_open"), (images, "_to_rgb")):
        with monkeypatch.context() as patched:
            patched.setattr(target, name, broken)
            with pytest.raises(BadSampleError):
                decode_image(picture(), LIMIT)
    with monkeypatch.context() as patched:
        patched.setattr(PngImageFile, "is_animated", property(broken), raising=False)
        with pytest.raises(BadSampleError):
            decode_image(picture(), LIMIT)


def test_a_picture_that_pillow_doubts_is_used():
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    data = encoded(palette, transparency=bytes([255, 128]))  # for which convert() has a warning
    assert decode_image(data, LIMIT)[1] == ["alpha"]


def test_no_program_is_started_for_an_eps(tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\necho run >> {tmp_path}/gs.log\nexit 1\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 10\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(BadSampleError, match="not an image"):
        decode_image(eps, LIMIT)
    with pytest.raises(OSError, match="Ghostscript"):  # torchvision's data sets open what is there
        Image.open(io.BytesIO(eps)).load()
    assert not (tmp_path / "gs.log").exists()


def test_only_regular_files_of_a_possible_size_are_read(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(30 * 2**30)
    for name, reason, said in (
        ("pipe.png", "missing_file", "pipe.png is not a regular file"),
        ("folder.png", "missing_file", "folder.png is not a regular file"),
        ("sparse.png", "too_many_bytes", "sparse.png has 30.0 GiB"),
        ("none.png", "missing_file", "none.png: No such file"),
        ("nul\0.png", "missing_file", "null"),
        (os.fsdecode(b"caf\xe9.png"), "missing_file", r"caf\\xe9.png: No such file"),
    ):
        with pytest.raises(BadSampleError, match=said) as caught:
            read_picture(tmp_path / name)
        assert caught.value.reason == reason
        str(caught.value).encode()
