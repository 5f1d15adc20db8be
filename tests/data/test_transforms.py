"""Pinned against what open_clip shows a model with the same preprocess_cfg."""

import itertools
from unittest import mock

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torchvision.transforms import v2

from gapless.config import AugmentationConfig
from gapless.data.transforms import build_eval_transform, build_train_transform

SHAPES = [32, (32, 32), (48, 24), (24, 48), (17, 40)]
SOURCES = [(64, 64), (90, 31), (33, 47), (16, 200), (300, 9)]
"""Height and width of pictures."""


def smooth(height, width):
    """A picture that shows where its pixels come from."""
    y, x = np.mgrid[:height, :width]
    return np.stack([200 * x / width, 200 * y / height, 127 + 60 * np.sin(x / 3) * np.cos(y / 3)], -1).astype(np.uint8)


def tensor(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def peers(preprocess, pixels, **options):
    """open_clip's own picture, as 0 to 255."""
    transform = image_transform_v2(PreprocessCfg(**preprocess, mean=(0,) * 3, std=(1,) * 3), **options)
    return transform(Image.fromarray(pixels)) * 255


@pytest.mark.parametrize("size", SHAPES, ids=str)
def test_evaluation_shows_what_open_clip_shows(size):
    for mode, interpolation in itertools.product(("shortest", "longest", "squash"), ("bicubic", "bilinear")):
        preprocess = {"size": size, "resize_mode": mode, "interpolation": interpolation, "fill_color": 9}
        for source in SOURCES:
            pixels = smooth(*source)
            ours, theirs = build_eval_transform(preprocess)(tensor(pixels)), peers(preprocess, pixels, is_train=False)
            assert ours.shape == theirs.shape
            assert float((ours - theirs).abs().max()) <= 1.01, (preprocess, source)  # rounding


@pytest.mark.parametrize("size", SHAPES, ids=str)
def test_a_training_crop_of_everything_is_what_evaluation_shows(size):
    preprocess = {"size": size}
    config = AugmentationConfig(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    for source in ((64, 64), (60, 120), (96, 48)):
        image = tensor(smooth(*source))
        shown, evaluated = (
            t(image).float() for t in (build_train_transform(preprocess, config), build_eval_transform(preprocess))
        )
        assert shown.shape == evaluated.shape
        assert float((shown - evaluated)[:2].abs().max()) < 9  # a crop has whole pixels


def test_training_crops_of_square_models_are_open_clips():
    preprocess = {"size": 32}
    for seed in range(5):
        pixels = smooth(70, 90)
        torch.manual_seed(seed)
        ours = build_train_transform(preprocess, AugmentationConfig())(tensor(pixels))
        torch.manual_seed(seed)
        theirs = peers(preprocess, pixels, is_train=True)
        assert float((ours - theirs).abs().max()) <= 1.01


@pytest.mark.parametrize("size", [8, (8, 4)], ids=str)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_thin_picture_is_the_peers_without_the_pixels_that_are_cut_off(size, interpolation):
    preprocess = {"size": size, "interpolation": interpolation}
    for source in ((1, 2000), (2001, 1), (3, 4001), (2, 999)):
        pixels = np.random.default_rng(0).integers(0, 256, (*source, 3), dtype=np.uint8)
        theirs = peers(preprocess, pixels, is_train=False)
        with mock.patch.object(v2.functional, "resize", side_effect=AssertionError("resized as a whole")):
            ours = build_eval_transform(preprocess)(tensor(pixels))
        assert float((ours - theirs).abs().max()) <= 1.01


@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1), (1, 1), (2, 30_000)])
def test_no_shape_costs_more_than_what_comes_out(shape):
    image = torch.full((3, *shape), 7, dtype=torch.uint8)
    sizes = []
    resize = v2.functional.resize

    def measured(image, size, *arguments, **options):
        sizes.append(np.prod(size))
        return resize(image, size, *arguments, **options)

    for size, mode in itertools.product((224, (48, 24)), ("shortest", "longest", "squash")):
        preprocess = {"size": size, "resize_mode": mode}
        height, width = (size, size) if isinstance(size, int) else size
        transform = build_eval_transform(preprocess)
        with mock.patch.object(v2.functional, "resize", measured if mode != "squash" else resize):
            shown = transform(image)
        assert shown.shape == (3, height, width)
        assert max(sizes, default=0) <= 16 * 224 * 224
        trained = build_train_transform(preprocess, AugmentationConfig())(image)
        assert bool((trained == 7).all())
