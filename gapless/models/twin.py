"""Two towers side by side: identical encoders, and the removal of the gap that they begin with.

The contrastive-gap paper's ablation (section 3.2): two image encoders that differ in nothing but their seeds see the
same images, and begin without a gap. What is apart after training was parted by the loss.

Axis letters: N pairs, D dimensions.
"""

from collections.abc import Mapping
from typing import Any, Literal

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gapless.geometry.procrustes import procrustes
from gapless.models.architecture import create_clip
from gapless.models.clip import ClipModel, pooled

TWIN = "twin_cfg"
"""Key of open_clip_config.json that tells a twin from what open_clip loads."""


class Twin(nn.Module):
    """Two towers with the interface of open_clip's CustomTextCLIP.

    Args:
        visual: the first tower.
        text: the second one; the first again for a single shared tower.
        parent: CustomTextCLIP that the towers are from, for its temperature and context length.
        dimension: of the features.
    """

    rotation: Tensor
    shift: Tensor

    def __init__(self, visual: nn.Module, text: nn.Module, parent: Any, dimension: int) -> None:
        super().__init__()
        self.visual = visual
        if text is not visual:  # registered once, or the weights would be stored twice
            self.second = text
        self.logit_scale, self.logit_bias = parent.logit_scale, parent.logit_bias
        self.context_length = parent.context_length
        self.register_buffer("rotation", torch.eye(dimension))
        self.register_buffer("shift", torch.zeros(dimension))

    @property
    def text(self) -> nn.Module:
        """The second tower."""
        return self.second if "second" in self._modules else self.visual

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass."""
        for tower in {self.visual, self.text}:
            tower.set_grad_checkpointing(enable)  # type: ignore[operator]


class TwinModel(ClipModel):
    """A :class:`Twin` behind the usual forward pass.

    Where both sides are images, ``encode_text`` takes uint8 (N, 3, H, W); where both are texts, ``encode_image`` takes
    int64 (N, L). The second side's features y become normalise(R (y - s)), with R and s the buffers ``rotation`` and
    ``shift``, identity and zero unless :meth:`remove_gap` was called.

    Args:
        clip: the towers.
        model_config: model_cfg of the architecture that they are from.
        preprocess: its preprocess_cfg.
        towers: what each side is.
    """

    def __init__(
        self, clip: Twin, model_config: Mapping[str, Any], preprocess: Mapping[str, Any], towers: str = "image-image"
    ) -> None:
        super().__init__(clip, model_config, preprocess)
        self.trims_captions = False
        self.towers = towers

    def export_config(self) -> dict[str, Any]:
        shared = self.clip.text is self.clip.visual
        return super().export_config() | {TWIN: {"towers": self.towers, "shared": shared}}

    def encode_image(self, first: Tensor) -> Tensor:
        """Unit-norm (N, D) float32 of the first tower."""
        return self._encode(self.clip.visual, first)

    def encode_text(self, second: Tensor) -> Tensor:
        """Unit-norm (N, D) float32 of the second tower, moved as :meth:`remove_gap` decided."""
        features = self._encode(self.clip.text, second)
        return F.normalize((features - self.clip.shift) @ self.clip.rotation.T, dim=-1)

    def _encode(self, tower: nn.Module, inputs: Tensor) -> Tensor:
        return F.normalize(pooled(tower(self.pixels(inputs) if inputs.ndim == 4 else inputs)).float(), dim=-1)

    def remove_gap(self, first: Tensor, second: Tensor, how: Literal["procrustes", "translate"]) -> None:
        """Fix the buffers so that the second side lies where the first does.

        Args:
            first: unit-norm (N, D) features of the first tower.
            second: unit-norm (N, D) features of the second tower, for the same pairs, as the buffers are now.
            how: procrustes for the best rotation or reflection, translate for a shift of the mean.
        """
        if how == "procrustes":
            self.clip.rotation.copy_(procrustes(first, second).float() @ self.clip.rotation.cpu())
        else:
            self.clip.shift.copy_((second.double().mean(dim=0) - first.double().mean(dim=0)).float())


def make_twin(one: ClipModel, other: ClipModel, towers: str, shared: bool) -> TwinModel:
    """A twin of the towers of two models of one architecture, both around a CustomTextCLIP.

    Args:
        one: whose tower is the first, and whose temperature is kept.
        other: whose tower is the second.
        towers: image-image, text-text or image-text.
        shared: whether the first tower serves both sides.
    """
    first = one.clip.text if towers == "text-text" else one.clip.visual
    second = first if shared else other.clip.visual if towers == "image-image" else other.clip.text
    twin = Twin(first, second, one.clip, int(one.model_config["embed_dim"]))
    return TwinModel(twin, one.model_config, one.preprocess, towers)


def load_twin(
    architecture: Mapping[str, Any],
    preprocess: Mapping[str, Any],
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
) -> TwinModel:
    """The twin that an export folder describes.

    Args:
        architecture: its model_cfg.
        preprocess: its preprocess_cfg.
        config: its twin_cfg.
        weights: state dict of the twin.

    Raises:
        RuntimeError: weights that do not fit.
        KeyError: a config that lacks a key.
    """

    def one() -> ClipModel:
        clip = create_clip(architecture, preprocess, custom_text=True, base_weights=False)
        return ClipModel(clip, architecture, open_clip.get_model_preprocess_cfg(clip))

    model = make_twin(one(), one(), config["towers"], config["shared"])
    model.clip.load_state_dict(weights)
    return model
