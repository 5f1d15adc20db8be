"""An open_clip model behind one forward pass: raw pixels and tokens in, unit-norm features out.

Axis letters: N pairs, L tokens, D dimensions.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import TextTransformer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import Self

Tokenizer = Callable[[list[str]], Tensor]
"""Captions to int64 (N, context length)."""
SCALARS = ("logit_scale", "logit_bias")
MAX_LOG_SCALE = 4.605170185988092
"""log 100, where CLIP clamps its learnable logit_scale."""
CONTEXT_LENGTH = 77
"""Tokens of a caption where an architecture does not say."""


class ClipModel(nn.Module):
    """A CLIP model with what is needed to use it: architecture, preprocessing and exact short captions.

    Args:
        clip: open_clip's CLIP or CustomTextCLIP.
        model_config: its model_cfg (embed_dim, vision_cfg, text_cfg, ...), as an export stores it.
        preprocess: its preprocess_cfg (size, mean, std, interpolation, resize_mode, fill_color).
    """

    clip: Any
    mean: Tensor
    std: Tensor

    def __init__(self, clip: nn.Module, model_config: Mapping[str, Any], preprocess: Mapping[str, Any]) -> None:
        super().__init__()
        self.clip = clip
        self.model_config = dict(model_config)
        self.trims_captions = reads_out_at_end(clip)
        self.context_length = int(self.model_config.get("text_cfg", {}).get("context_length", CONTEXT_LENGTH))
        self.set_preprocess(preprocess)

    def set_preprocess(self, preprocess: Mapping[str, Any]) -> None:
        """Take another preprocess_cfg, which must suit the weights."""
        self.preprocess = dict(preprocess)
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(preprocess[name]).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> Self:
        """As of any module, but a locked tower's batch normalisation keeps its statistics in training, too."""
        super().train(mode)
        for norm in locked_batch_norms(self.clip):
            norm.eval()
        return self

    def forward(self, images: Tensor | None = None, tokens: Tensor | None = None) -> dict[str, Tensor]:
        """Features of images, of texts or of both, and the temperature.

        Args:
            images: uint8 (N, 3, H, W), N may be 0.
            tokens: int64 (N, L), L up to the context length.

        Returns:
            ``image_features`` and ``text_features``, unit-norm (N, D) float32; ``logit_scale`` (1 / temperature); and
            ``logit_bias`` if the model has one.
        """
        output = {"logit_scale": self.clip.logit_scale.exp().squeeze()}
        if self.clip.logit_bias is not None:
            output["logit_bias"] = self.clip.logit_bias.squeeze()
        if images is not None:
            output["image_features"] = self.encode_image(self._never_empty(images))[: len(images)]
        if tokens is not None:
            output["text_features"] = self.encode_text(self._never_empty(tokens))[: len(tokens)]
        return output

    def _never_empty(self, rows: Tensor) -> Tensor:
        """A blank row where there is none: every process must take part in every backward pass."""
        if len(rows):
            return rows
        return rows.new_zeros(1, *(rows.shape[1:] if rows.ndim == 4 else (self.context_length,)))

    def export_config(self) -> dict[str, Any]:
        """What open_clip_config.json says of the model."""
        kept = ("mean", "std", "interpolation", "resize_mode")
        return {
            "model_cfg": self.model_config,
            "preprocess_cfg": {k: v for k, v in self.preprocess.items() if k in kept},
        }

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) as the image tower takes them."""
        return (images / 255 - self.mean) / self.std

    def encode_image(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) to unit-norm (N, D) float32."""
        return F.normalize(pooled(self.clip.visual(self.pixels(images))).float(), dim=-1)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """int64 (N, L) to unit-norm (N, D) float32; L below the context length if ``trims_captions``."""
        features = _encode_short_text(self.clip, tokens) if self.trims_captions else self.clip.encode_text(tokens)
        return F.normalize(pooled(features).float(), dim=-1)

    def reshape_scalars(self) -> None:
        """Give logit_scale and logit_bias one dimension: FSDP2 shards no scalars. Exports have scalars again."""
        for name in SCALARS:
            scalar = getattr(self.clip, name)
            if scalar is not None:
                setattr(self.clip, name, nn.Parameter(scalar.detach().reshape(1), requires_grad=scalar.requires_grad))

    @torch.no_grad()
    def set_temperature(self, temperature: float) -> None:
        """Give logit_scale the value 1 / temperature."""
        self.clip.logit_scale.fill_(-math.log(temperature))

    @contextmanager
    def softplus_temperature(self, apply: bool = True) -> Iterator[None]:
        """Within it logit_scale and its gradient are those of v, where exp(logit_scale) = softplus(v).

        An optimiser that steps within it learns v; everything else sees an ordinary CLIP.
        """
        p = self.clip.logit_scale
        if not apply or p.grad is None:
            yield
            return
        with torch.no_grad():
            scale = p.exp()
            v = scale + (-torch.expm1(-scale)).log()
            p.grad.mul_(v.sigmoid() / scale)
            p.copy_(v)
        try:
            yield
        finally:
            with torch.no_grad():
                p.copy_(F.softplus(p).log())

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep a learnable logit_scale in [1, 100]."""
        if self.clip.logit_scale.requires_grad:
            self.clip.logit_scale.clamp_(0, MAX_LOG_SCALE)


def reads_out_at_end(clip: nn.Module) -> bool:
    """Whether padding behind the end-of-text token cannot change a text feature.

    So it is for open_clip's own causal towers that pool at the end-of-text token without a class token.
    """
    if isinstance(clip, open_clip.CLIP):
        return clip.attn_mask is not None and clip.text_pool_type == "argmax"
    text = getattr(clip, "text", None)
    if not isinstance(text, TextTransformer):
        return False
    return text.attn_mask is not None and text.cls_emb is None and text.pool_type == "argmax" and not text.output_tokens


def locked_batch_norms(clip: nn.Module) -> Iterator[nn.Module]:
    """Batch normalisations whose weights are not trained."""
    for module in clip.modules():
        if isinstance(module, _BatchNorm) and module.affine and not module.weight.requires_grad:
            yield module


def pooled(features: Any) -> Tensor:
    """The feature of a tower that gives its tokens, too (CoCa)."""
    feature: Tensor = features[0] if isinstance(features, tuple) else features
    return feature


def _encode_short_text(clip: Any, tokens: Tensor) -> Tensor:
    """The text tower by parts: open_clip's encode_text adds all positions and so takes full-length batches only."""
    tower = clip if isinstance(clip, open_clip.CLIP) else clip.text
    length = tokens.shape[1]
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(tokens).to(dtype) + tower.positional_embedding[:length].to(dtype)
    x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask[:length, :length]))
    x = x[torch.arange(len(x), device=x.device), tokens.argmax(dim=-1)]
    if tower.text_projection is None:
        return x
    return tower.text_projection(x) if isinstance(tower.text_projection, nn.Linear) else x @ tower.text_projection
