"""uint8 images to the model's size. Pixels are normalised later, on the device."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from gapless.config import AugmentationConfig


def image_size(preprocess: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width that a model expects, from its preprocess_cfg."""
    size = preprocess["size"]
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _interpolation(preprocess: Mapping[str, Any]) -> InterpolationMode:
    return InterpolationMode.BILINEAR if preprocess.get("interpolation") == "bilinear" else InterpolationMode.BICUBIC


def build_eval_transform(preprocess: Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    """Resize and crop as the model's preprocess_cfg says, uint8 (3, H, W) to uint8 (3, S, S)."""
    height, width = image_size(preprocess)
    mode = preprocess.get("resize_mode") or "shortest"
    interpolation = _interpolation(preprocess)
    if mode == "squash":
        return v2.Resize((height, width), interpolation=interpolation, antialias=True)
    if mode == "longest":
        return _FitInside(height, width, int(preprocess.get("fill_color") or 0), interpolation)
    return v2.Compose(
        [v2.Resize(max(height, width), interpolation=interpolation, antialias=True), v2.CenterCrop((height, width))]
    )


def build_train_transform(preprocess: Mapping[str, Any], config: AugmentationConfig) -> Callable[[Tensor], Tensor]:
    """Random crop, colour jitter, grey scale and erasing, uint8 (3, H, W) to uint8 (3, S, S)."""
    steps: list[torch.nn.Module] = [
        v2.RandomResizedCrop(
            image_size(preprocess),
            scale=config.scale,
            ratio=config.ratio,
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


class _FitInside:
    """Resize the longer side and pad the shorter one."""

    def __init__(self, height: int, width: int, fill: int, interpolation: InterpolationMode) -> None:
        self.size, self.fill, self.interpolation = (height, width), fill, interpolation

    def __call__(self, image: Tensor) -> Tensor:
        ratio = min(self.size[0] / image.shape[1], self.size[1] / image.shape[2])
        size = [max(1, round(side * ratio)) for side in image.shape[1:]]
        resized = v2.functional.resize(image, size, interpolation=self.interpolation, antialias=True)
        top, left = (self.size[0] - size[0]) // 2, (self.size[1] - size[1]) // 2
        padding = [left, top, self.size[1] - size[1] - left, self.size[0] - size[0] - top]
        return v2.functional.pad(resized, padding, fill=[self.fill])
