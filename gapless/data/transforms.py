"""uint8 images to the model's size. Pixels are normalised later, on the device."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from gapless.config import AugmentationConfig

LARGEST_DETOUR = 16
"""A picture is resized as a whole, before its middle is cut out, up to so many times the pixels that come out."""


def image_size(preprocess: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width that a model expects, from its preprocess_cfg."""
    size = preprocess["size"]
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _interpolation(preprocess: Mapping[str, Any]) -> InterpolationMode:
    return InterpolationMode.BILINEAR if preprocess.get("interpolation") == "bilinear" else InterpolationMode.BICUBIC


def build_eval_transform(preprocess: Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    """What open_clip shows a model with this preprocess_cfg, uint8 (3, H, W) to uint8 (3, height, width)."""
    height, width = image_size(preprocess)
    mode = preprocess.get("resize_mode") or "shortest"
    interpolation = _interpolation(preprocess)
    if mode == "squash":
        return v2.Resize((height, width), interpolation=interpolation, antialias=True)
    if mode == "longest":
        return _FitInside(height, width, int(preprocess.get("fill_color") or 0), interpolation)
    # open_clip's transform of models that are not square takes no other interpolation.
    return _FillAndCrop(height, width, interpolation if height == width else InterpolationMode.BICUBIC)


def build_train_transform(preprocess: Mapping[str, Any], config: AugmentationConfig) -> Callable[[Tensor], Tensor]:
    """Random crop, colour jitter, grey scale and erasing, uint8 (3, H, W) to uint8 (3, height, width)."""
    height, width = image_size(preprocess)
    steps: list[torch.nn.Module] = [
        v2.RandomResizedCrop(
            (height, width),
            scale=config.scale,
            # Of the model's own shape: a crop of ratio 1 is not distorted, as in evaluation and in the export.
            ratio=[ratio * width / height for ratio in config.ratio],
            interpolation=_interpolation(preprocess),
            antialias=True,
        )
    ]
    if config.color_jitter is not None:
        steps.append(v2.RandomApply([v2.ColorJitter(*config.color_jitter)], p=config.color_jitter_prob))
    if config.gray_scale_prob:
        steps.append(v2.RandomGrayscale(p=config.gray_scale_prob))
    steps += [v2.RandomErasing(p=config.re_prob) for _ in range(config.re_count) if config.re_prob]
    return v2.Compose(steps)


class _FillAndCrop:
    """Resize until the size is filled, and cut out the middle."""

    def __init__(self, height: int, width: int, interpolation: InterpolationMode) -> None:
        self.size, self.interpolation = (height, width), interpolation

    def __call__(self, image: Tensor) -> Tensor:
        resized = self.resized(image.shape[1], image.shape[2])
        if resized[0] * resized[1] > LARGEST_DETOUR * self.size[0] * self.size[1]:
            return self._only_the_middle(image, resized)
        whole = v2.functional.resize(image, list(resized), interpolation=self.interpolation, antialias=True)
        return v2.functional.center_crop(whole, list(self.size))

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Size of the whole picture before its middle is cut out, rounded as open_clip and torchvision do."""
        if self.size[0] == self.size[1]:
            short, side = min(height, width), self.size[0]
            return (side, int(side * width / short)) if height == short else (int(side * height / short), side)
        ratio = min(height / self.size[0], width / self.size[1])
        return round(height / ratio), round(width / ratio)

    def _only_the_middle(self, image: Tensor, resized: tuple[int, int]) -> Tensor:
        """The same pixels, without making those of a long, thin picture that are cut off."""
        box = []
        for inner, outer, source in zip(self.size, resized, image.shape[1:], strict=True):
            start = round((outer - inner) / 2)
            box += [(start * source / outer, (start + inner) * source / outer)]
        (top, bottom), (left, right) = box
        how = (
            Image.Resampling.BILINEAR if self.interpolation == InterpolationMode.BILINEAR else Image.Resampling.BICUBIC
        )
        picture = v2.functional.to_pil_image(image)
        return v2.functional.pil_to_tensor(picture.resize(self.size[::-1], how, (left, top, right, bottom)))


class _FitInside:
    """Resize the longer side and pad the shorter one."""

    def __init__(self, height: int, width: int, fill: int, interpolation: InterpolationMode) -> None:
        self.size, self.fill, self.interpolation = (height, width), fill, interpolation

    def __call__(self, image: Tensor) -> Tensor:
        ratio = max(image.shape[1] / self.size[0], image.shape[2] / self.size[1])
        size = [max(1, round(side / ratio)) for side in image.shape[1:]]
        resized = v2.functional.resize(image, size, interpolation=self.interpolation, antialias=True)
        top, left = (self.size[0] - size[0]) // 2, (self.size[1] - size[1]) // 2
        padding = [left, top, self.size[1] - size[1] - left, self.size[0] - size[0] - top]
        return v2.functional.pad(resized, padding, fill=[self.fill])
